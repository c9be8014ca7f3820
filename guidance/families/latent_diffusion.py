"""What the families of latent diffusion models (Rombach et al. 2022, arXiv 2112.10752) have in common.

An autoencoder whose latents are shifted and scaled to about unit variance, and text encoders that are
loaded when a prompt comes and freed afterwards. A family adds its network and what that reads.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from transformers import PreTrainedTokenizerBase

from guidance.families.additions import fuse_loras, read_lora
from guidance.families.components import load_component
from guidance.frozen_model import Images
from guidance.model_files import ModelFiles
from guidance.prior import DiffusionPrior, NetworkTraits, without_autocast
from guidance.schedule import Latents, NoiseSchedule
from guidance.vocabulary import read_vocabulary


class LatentDiffusionPrior(DiffusionPrior):
    """Autoencoder and life of the text encoders; abstract in the network."""

    lora_loader: ClassVar[Any]  # diffusers' mixin, which knows the formats of LoRA files
    lora_parts: ClassVar[tuple[str, ...]]  # what such files can change

    def __init__(
        self,
        *,
        network: nn.Module,
        autoencoder: AutoencoderKL,
        schedule: NoiseSchedule,
        prediction_type: str,
        latent_size: tuple[int, int],
        traits: NetworkTraits,
        tokenizers: tuple[PreTrainedTokenizerBase | None, ...],
        files: ModelFiles,
        device: torch.device,
        dtype: torch.dtype,
        patch: int = 1,
    ) -> None:
        """Put the parts on their device.

        Args:
            latent_size: height and width at the size that the model was trained for.
            tokenizers: one for each text encoder, None for one that the model comes without.
            patch: latents along a side that the network reads as one.
        """
        downscale = 2 ** (len(autoencoder.config.block_out_channels) - 1)
        super().__init__(
            network=network.to(device),
            autoencoder=autoencoder.to(device),
            schedule=schedule.to(device),
            prediction_type=prediction_type,
            latent_shape=(autoencoder.config.latent_channels, *latent_size),
            image_size=latent_size[0] * downscale,
            traits=traits,
            vocabulary=None if files.folder is None else read_vocabulary(files.folder),
        )
        self.downscale = downscale  # pixels a latent, along each axis
        self.patch = patch
        self.tokenizers = tokenizers
        self.files = files
        self.dtype = dtype
        if device.type == "cpu":
            self.use_plain_attention()
        self._text_encoders: tuple[nn.Module | None, ...] = ()  # a tuple, so that torch does not register them

    def describe(self) -> str:
        added = [f"{lora.path} x {lora.scale:g}" for lora in self.files.loras]
        return ", ".join([super().describe(), *added, *map(str, self.files.embeddings)])

    @classmethod
    def load_network(
        cls, component: type, files: ModelFiles, name: str, device: torch.device, dtype: torch.dtype
    ) -> nn.Module:
        """A network with the LoRA files that are added to it; raises as ``load_component`` and ``fuse_loras``."""
        for lora in files.loras:  # before anything large
            read_lora(lora, files, cls.lora_loader, cls.lora_parts)
        network = load_component(component, files, name, device, dtype)
        if device.type != "meta":
            fuse_loras(network, name, files, cls.lora_loader, cls.lora_parts)
        return network

    def load_text_encoder(self, component: type, name: str) -> nn.Module:
        """The same for a text encoder, on the prior's device."""
        return self.load_network(component, self.files, name, self.device, self.dtype)

    def use_plain_attention(self) -> None:
        """Two matrix products in place of torch's fused attention, whose backward pass is ten times slower on a CPU."""
        for module in (self.network, self.frozen_autoencoder.module):
            if isinstance(module, (UNet2DConditionModel, AutoencoderKL)):
                module.set_attn_processor(AttnProcessor())

    @abstractmethod
    def _load_text_encoders(self) -> tuple[nn.Module | None, ...]:
        """One for each tokenizer, None where the model comes without."""

    @property
    def text_encoders(self) -> tuple[nn.Module | None, ...]:
        """Frozen and on the prior's device; loaded if they were released."""
        if not self._text_encoders:
            loaded = self._load_text_encoders()
            self._text_encoders = tuple(e if e is None else e.eval().requires_grad_(False) for e in loaded)
        return tuple(encoder if encoder is None else encoder.to(self.device) for encoder in self._text_encoders)

    def release_text_encoder(self) -> None:
        self._text_encoders = ()

    def encode_images(self, images: Images) -> Latents:
        multiple = self.downscale * self.patch
        if images.shape[-1] % multiple or images.shape[-2] % multiple:
            raise ValueError(
                f"images: {images.shape[-2]}x{images.shape[-1]} pixels are no multiple of the autoencoder's "
                f"{multiple}; render at {self.image_size}x{self.image_size} or another multiple"
            )
        autoencoder = self.frozen_autoencoder.module
        with without_autocast(images.device):
            posterior = autoencoder.encode((images * 2 - 1).to(autoencoder.dtype)).latent_dist
        return (posterior.mode().float() - _shift(autoencoder)) * autoencoder.config.scaling_factor

    def decode_latents(self, latents: Latents) -> Images:
        autoencoder = self.frozen_autoencoder.module
        unscaled = latents / autoencoder.config.scaling_factor + _shift(autoencoder)
        with without_autocast(latents.device):
            decoded = autoencoder.decode(unscaled.to(autoencoder.dtype)).sample
        return (decoded.float() / 2 + 0.5).clamp(0, 1)


def load_autoencoder(files: ModelFiles, device: torch.device, dtype: torch.dtype) -> AutoencoderKL:
    """In ``dtype``, but in float32 instead of fp16 where the autoencoder's configuration says ``force_upcast``.

    SDXL's original weights overflow in fp16. That SD 3's and FLUX's do was not tested here: they may, ``force_upcast``
    is also diffusers' default, and float32 is the safe choice; it costs memory and time. bfloat16 has float32's range.
    """
    autoencoder = load_component(AutoencoderKL, files, "vae", device, dtype=dtype)
    if dtype == torch.float16 and autoencoder.config.force_upcast:
        return load_component(AutoencoderKL, files, "vae", device, dtype=torch.float32)
    return autoencoder


def check_channels(name: str, taken: int, autoencoder: AutoencoderKL, files: ModelFiles, packed: int = 1) -> None:
    """Compare what the network reads with the latents, ``packed`` of which it reads as one.

    Raises:
        ValueError: they differ, as in models that also read a mask or a picture.
    """
    channels = autoencoder.config.latent_channels * packed
    if taken != channels:
        raise ValueError(
            f"prior: the {name} of {str(files)!r} takes {taken} channels, the latents have "
            f"{channels}: it is an inpainting or image-to-image model (or {name} and autoencoder do not belong "
            "together); use its text-to-image counterpart"
        )


def _shift(autoencoder: AutoencoderKL) -> float:
    """The latents' mean; 0 in the families that only scale."""
    return autoencoder.config.get("shift_factor") or 0.0
