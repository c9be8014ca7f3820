"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022, arXiv 2112.10752), and the bundled prior.

A UNet on the latents of an autoencoder, with cross-attention to CLIP's last hidden states. It
predicts eps (1.x, 2.x-base) or v (2.x at 768 pixels); its scheduler's config says which.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from jaxtyping import Int
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from guidance.families.additions import add_inversions, read_inversions, spelled_out, with_words
from guidance.families.components import load_component, require_components
from guidance.families.registry import family
from guidance.families.text import load_tokenizer, tokenize
from guidance.families.unet import UNetPrior, load_variance_preserving
from guidance.frozen_model import TextEmbeddings
from guidance.model_files import ModelFiles
from guidance.schedule import Latents

COMPONENTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


@family("StableDiffusionPipeline", preset="sd21")
class StableDiffusionPrior(UNetPrior):
    """The family's text-to-image models."""

    half_format = torch.float16  # bf16's differences of scores are 9 to 18% off: docs/experiments/estimator.md
    lora_loader = StableDiffusionLoraLoaderMixin
    lora_parts = ("unet", "text_encoder")

    @classmethod
    def load(
        cls, files: ModelFiles, index: dict[str, Any], device: torch.device, dtype: torch.dtype
    ) -> StableDiffusionPrior:
        require_components(files, index, COMPONENTS)
        scheduler = load_variance_preserving(files, index)
        unet = cls.load_network(UNet2DConditionModel, files, "unet", device, dtype)
        autoencoder = load_component(AutoencoderKL, files, "vae", device, dtype)
        tokenizer = load_tokenizer(CLIPTokenizer, files, "tokenizer")
        return cls(unet, autoencoder, scheduler, (tokenizer,), files, device, dtype)

    def __init__(self, *parts: Any) -> None:
        """As ``UNetPrior``, with the words of textual inversions; raises as ``read_inversions`` and ``with_words``."""
        super().__init__(*parts)
        self.embeddings = read_inversions(self.files)
        if self.embeddings:
            self.tokenizers = (with_words(self.tokenizers[0], self.embeddings),)
        if self.vocabulary is not None:
            self.vocabulary = frozenset({*self.vocabulary, *self.embeddings})

    def _load_text_encoders(self) -> tuple[nn.Module, ...]:
        encoder = self.load_text_encoder(CLIPTextModel, "text_encoder")
        if self.device.type != "meta":
            add_inversions(encoder, self.tokenizers[0], self.embeddings)
        return (encoder,)

    @torch.no_grad()
    def _embed(self, prompts: list[str]) -> TextEmbeddings:
        prompts = [spelled_out(prompt, self.embeddings) for prompt in prompts]
        tokens = tokenize(self.tokenizers[0], prompts).to(self.device)
        return TextEmbeddings(self.text_encoders[0](tokens).last_hidden_state)

    def run_network(self, network: nn.Module, x_t: Latents, t: Int[Tensor, "batch"], text: TextEmbeddings) -> Latents:
        dtype = self.network.dtype  # not that of a twin, whose adapters are float32
        return network(x_t.to(dtype), t, text.tokens.to(dtype)).sample.float()
