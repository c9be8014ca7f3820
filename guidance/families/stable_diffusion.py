"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022, arXiv 2112.10752), and the bundled prior.

A UNet on the latents of an autoencoder, with cross-attention to CLIP's last hidden states. It
predicts eps (1.x, 2.x-base) or v (2.x at 768 pixels); its scheduler's config says which.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from jaxtyping import Int
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from guidance.families.components import load_component, require_components
from guidance.families.registry import family
from guidance.families.text import load_tokenizer, tokenize
from guidance.families.unet import UNetPrior, load_variance_preserving
from guidance.frozen_model import TextEmbeddings
from guidance.schedule import Latents

COMPONENTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


@family("StableDiffusionPipeline", preset="sd21")
class StableDiffusionPrior(UNetPrior):
    """The family's text-to-image models, from a folder or the hub."""

    @classmethod
    def load(
        cls, source: Path | str, index: dict[str, Any], device: torch.device, dtype: torch.dtype
    ) -> StableDiffusionPrior:
        require_components(source, index, COMPONENTS)
        scheduler = load_variance_preserving(source, index)
        unet = load_component(UNet2DConditionModel, source, "unet", device, torch_dtype=dtype)
        autoencoder = load_component(AutoencoderKL, source, "vae", device, torch_dtype=dtype)
        tokenizer = load_tokenizer(CLIPTokenizer, source, "tokenizer")
        return cls(unet, autoencoder, scheduler, (tokenizer,), source, device, dtype)

    def _load_text_encoders(self) -> tuple[nn.Module, ...]:
        return (load_component(CLIPTextModel, self.source, "text_encoder", self.device, dtype=self.dtype),)

    @torch.no_grad()
    def _embed(self, prompts: list[str]) -> TextEmbeddings:
        tokens = tokenize(self.tokenizers[0], prompts).to(self.device)
        return TextEmbeddings(self.text_encoders[0](tokens).last_hidden_state)

    def run_network(self, network: nn.Module, x_t: Latents, t: Int[Tensor, "batch"], text: TextEmbeddings) -> Latents:
        dtype = self.network.dtype  # not that of a twin, whose adapters are float32
        return network(x_t.to(dtype), t, text.tokens.to(dtype)).sample.float()
