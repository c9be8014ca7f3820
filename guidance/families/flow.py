"""What the families of transformers that learnt a rectified flow share: the network's parts, and the noise schedule.

The schedule is read from a diffusers scheduler. Esser et al. 2024 (arXiv 2403.03206, section 5.3.2): more pixels need
more noise to hide the same picture, so the times s, evenly spaced on (0, 1], are shifted towards the noisy end,

    s' = k s / (1 + (k - 1) s) = k / (k + 1/s - 1),

by a constant k ("shift", SD3) or by k = exp(mu) with mu linear in the number of patches ("dynamic
shifting", FLUX).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ModelMixin
from torch import nn
from transformers import PreTrainedTokenizerBase

from guidance.families.attention import attention_projections
from guidance.families.components import load_component, require_components
from guidance.families.latent_diffusion import LatentDiffusionPrior, check_channels, load_autoencoder
from guidance.model_files import ModelFiles
from guidance.prior import NetworkTraits
from guidance.schedule import NoiseSchedule


@dataclass(frozen=True)
class TokenGrid:
    """How a transformer reads latents."""

    side: int  # latents along a side of a picture of the size that the model was trained for
    patch: int  # latents along a side of a token
    packed: int = 1  # latents that are packed to one before the network reads them

    @property
    def tokens(self) -> int:
        """Tokens of a picture."""
        return (self.side // self.patch) ** 2


class FlowTransformerPrior(LatentDiffusionPrior):
    """A transformer that learnt a flow; abstract in how it reads latents and texts."""

    network_class: ClassVar[type[ModelMixin]]
    condition_module: ClassVar[str] = "time_text_embed"  # of the network; conditions are added to its output

    @staticmethod
    @abstractmethod
    def grid(transformer: nn.Module, autoencoder: AutoencoderKL) -> TokenGrid:
        """The tokens of its pictures."""

    @classmethod
    def load_parts(
        cls,
        files: ModelFiles,
        index: dict[str, Any],
        components: tuple[str, ...],
        device: torch.device,
        dtype: torch.dtype,
    ) -> tuple[nn.Module, AutoencoderKL, NoiseSchedule]:
        """Transformer, autoencoder and noise schedule; raises as ``load``."""
        require_components(files, index, components)
        transformer = cls.load_network(cls.network_class, files, "transformer", device, dtype)
        autoencoder = load_autoencoder(files, device, dtype)
        return transformer, autoencoder, load_flow_schedule(files, index, cls.grid(transformer, autoencoder).tokens)

    def __init__(
        self,
        transformer: nn.Module,
        autoencoder: AutoencoderKL,
        schedule: NoiseSchedule,
        tokenizers: tuple[PreTrainedTokenizerBase | None, ...],
        files: ModelFiles,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        grid = self.grid(transformer, autoencoder)
        check_channels("transformer", transformer.config.in_channels, autoencoder, files, grid.packed)
        super().__init__(
            network=transformer,
            autoencoder=autoencoder,
            schedule=schedule,
            prediction_type="flow",
            latent_size=(grid.side, grid.side),
            traits=NetworkTraits(
                lora_targets=attention_projections(transformer),
                condition_module=self.condition_module,
                condition_width=transformer.inner_dim,
            ),
            tokenizers=tokenizers,
            files=files,
            device=device,
            dtype=dtype,
            patch=grid.patch,
        )


def load_flow_schedule(files: ModelFiles, index: dict[str, Any], patches: int) -> NoiseSchedule:
    """The schedule of a model whose pictures have ``patches`` patches.

    Raises:
        ValueError: the model's scheduler is none of a flow.
    """
    name = index["scheduler"][-1]
    if not name.startswith("FlowMatch"):
        raise ValueError(
            f"prior: the scheduler of {str(files)!r} is {name}; this family learns a flow, so a "
            "FlowMatchEulerDiscreteScheduler is needed; fetch the model again"
        )
    return flow_schedule(load_component(FlowMatchEulerDiscreteScheduler, files, "scheduler"), patches)


def flow_schedule(scheduler: FlowMatchEulerDiscreteScheduler, patches: int) -> NoiseSchedule:
    """alpha = 1 - s', sigma = s', as the scheduler would sample a picture of ``patches`` patches."""
    config = scheduler.config
    steps = torch.arange(1, config.num_train_timesteps + 1, dtype=torch.float64) / config.num_train_timesteps
    if config.use_dynamic_shifting:
        slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
        mu = config.base_shift + slope * (patches - config.base_image_seq_len)
        return NoiseSchedule.flow_matching(scheduler.time_shift(mu, 1.0, steps))
    return NoiseSchedule.flow_matching(config.shift * steps / (1 + (config.shift - 1) * steps))
