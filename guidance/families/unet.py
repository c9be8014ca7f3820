"""What the families with a UNet share: variance-preserving noise, predictions of eps or v, and where LoRA attaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTokenizer

from guidance.families.components import load_component
from guidance.families.latent_diffusion import LatentDiffusionPrior, check_channels
from guidance.prior import NetworkTraits
from guidance.schedule import NoiseSchedule

_PREDICTION_TYPES = {"epsilon": "epsilon", "v_prediction": "v"}


class UNetPrior(LatentDiffusionPrior):
    """A UNet with variance-preserving noise; abstract in the texts that it reads."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        autoencoder: AutoencoderKL,
        scheduler: DDPMScheduler,
        tokenizers: tuple[CLIPTokenizer | None, ...],
        source: Path | str,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        check_channels("UNet", unet.config.in_channels, autoencoder, source)
        schedule, prediction_type = read_scheduler(scheduler, source)
        super().__init__(
            network=unet,
            autoencoder=autoencoder,
            schedule=schedule,
            prediction_type=prediction_type,
            latent_size=sample_size_of(unet),
            traits=unet_traits(unet),
            tokenizers=tokenizers,
            source=source,
            device=device,
            dtype=dtype,
        )


def load_variance_preserving(source: Path | str, index: dict[str, Any]) -> DDPMScheduler:
    """The noise levels, whichever sampler the model comes with.

    Raises:
        ValueError: the sampler is of another kind of noise: a flow, or EDM's (Karras et al. 2022).
    """
    name = index["scheduler"][-1]
    if name.startswith(("FlowMatch", "EDM")):
        raise ValueError(
            f"prior: the scheduler of {str(source)!r} is {name}; this family is supported with the variance-preserving "
            "noise of DDPM, DDIM and their like; use a model that was trained with it"
        )
    return load_component(DDPMScheduler, source, "scheduler")


def read_scheduler(scheduler: DDPMScheduler, source: Path | str) -> tuple[NoiseSchedule, str]:
    """The schedule, and what the UNet predicts.

    Raises:
        ValueError: a prediction type that is neither eps nor v.
    """
    prediction_type = scheduler.config.prediction_type
    if prediction_type not in _PREDICTION_TYPES:
        raise ValueError(
            f"prior: {str(source)!r} has prediction_type {prediction_type!r} in scheduler_config.json; "
            f"supported are {', '.join(_PREDICTION_TYPES)}"
        )
    return NoiseSchedule.variance_preserving(scheduler.alphas_cumprod), _PREDICTION_TYPES[prediction_type]


def unet_traits(unet: UNet2DConditionModel) -> NetworkTraits:
    """LoRA on all attention projections, conditions on the time embedding."""
    return NetworkTraits(
        lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
        condition_module="time_embedding",
        condition_width=unet.time_embedding.linear_2.out_features,
    )


def sample_size_of(unet: UNet2DConditionModel) -> tuple[int, int]:
    """Height and width of the latents that the UNet was trained for."""
    size = unet.config.sample_size
    return (size, size) if isinstance(size, int) else tuple(size)
