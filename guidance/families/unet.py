"""What the families with a UNet share: variance-preserving noise, predictions of eps or v, and where LoRA attaches."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTokenizer

from guidance.families.components import load_component
from guidance.families.latent_diffusion import LatentDiffusionPrior, check_channels
from guidance.model_files import ModelFiles
from guidance.prior import NetworkTraits
from guidance.schedule import NoiseSchedule

NO_SIGNAL = 1e-7  # alpha^2, below which a level is taken for noise alone
# Further inputs that UNets can have: the field of the configuration that asks for one, and what it is for.
_INPUTS = {
    "num_class_embeds": "the number of a class, as in upscalers",
    "class_embed_type": "a class, a picture or a camera beside the text",
    "time_cond_proj_dim": "the guidance scale of a model that was distilled to few steps, and is no score any more",
    "addition_embed_type": "pooled text and sizes, or pictures",
    "encoder_hid_dim_type": "another kind of text, or pictures",
}
_PREDICTION_TYPES = {"epsilon": "epsilon", "v_prediction": "v"}


class UNetPrior(LatentDiffusionPrior):
    """A UNet with variance-preserving noise; abstract in the texts that it reads."""

    inputs: ClassVar[Mapping[str, str]] = MappingProxyType({})  # of ``_INPUTS``: those of the family's UNets

    def __init__(
        self,
        unet: UNet2DConditionModel,
        autoencoder: AutoencoderKL,
        scheduler: DDPMScheduler,
        tokenizers: tuple[CLIPTokenizer | None, ...],
        files: ModelFiles,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        check_inputs(unet, files, self.inputs)
        check_channels("UNet", unet.config.in_channels, autoencoder, files)
        schedule, prediction_type = read_scheduler(scheduler, files)
        super().__init__(
            network=unet,
            autoencoder=autoencoder,
            schedule=schedule,
            prediction_type=prediction_type,
            latent_size=sample_size_of(unet),
            traits=unet_traits(unet),
            tokenizers=tokenizers,
            files=files,
            device=device,
            dtype=dtype,
        )


def check_inputs(unet: UNet2DConditionModel, files: ModelFiles, known: Mapping[str, str]) -> None:
    """Compare what the UNet reads beside picture, t and text with what the family gives it.

    Raises:
        ValueError: it reads something else, or something more.
    """
    for field, what in _INPUTS.items():
        value, expected = unet.config.get(field), known.get(field)
        if value != expected:
            raise ValueError(
                f"prior: the UNet of {str(files)!r} has {field} {value!r}, where this family's have {expected!r}: that "
                f"is for {what}; use a plain text-to-image model, such as the one that this was made from"
            )


def load_variance_preserving(files: ModelFiles, index: dict[str, Any]) -> DDPMScheduler:
    """The noise levels, whichever sampler the model comes with.

    Raises:
        ValueError: the sampler is of another kind of noise: a flow, or EDM's (Karras et al. 2022).
    """
    name = index["scheduler"][-1]
    if name.startswith(("FlowMatch", "EDM")):
        raise ValueError(
            f"prior: the scheduler of {str(files)!r} is {name}; this family is supported with the variance-preserving "
            "noise of DDPM, DDIM and their like; use a model that was trained with it"
        )
    return load_component(DDPMScheduler, files, "scheduler")


def read_scheduler(scheduler: DDPMScheduler, files: ModelFiles) -> tuple[NoiseSchedule, str]:
    """The schedule, and what the UNet predicts.

    Where the last level is noise alone (zero terminal SNR), eps says nothing of x_0: that level is left out.

    Raises:
        ValueError: a prediction type that is neither eps nor v.
    """
    prediction_type = scheduler.config.prediction_type
    if prediction_type not in _PREDICTION_TYPES:
        raise ValueError(
            f"prior: {str(files)!r} has prediction_type {prediction_type!r} in scheduler_config.json; "
            f"supported are {', '.join(_PREDICTION_TYPES)}"
        )
    alphas = scheduler.alphas_cumprod
    if prediction_type == "epsilon" and alphas[-1] < NO_SIGNAL:
        kept = alphas[alphas >= NO_SIGNAL]
        warnings.warn(
            f"prior: {str(files)!r} predicts epsilon, and {len(alphas) - len(kept)} of its {len(alphas)} noise levels "
            "hide the picture wholly (zero terminal SNR): left out, since there epsilon says nothing of the picture",
            stacklevel=2,
        )
        alphas = kept
    return NoiseSchedule.variance_preserving(alphas), _PREDICTION_TYPES[prediction_type]


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
