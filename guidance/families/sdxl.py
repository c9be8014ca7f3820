"""Stable Diffusion XL (Podell et al. 2023, arXiv 2307.01952).

A UNet that predicts eps (v in some fine-tunes). It reads the last hidden states but one of two CLIP text
encoders side by side, the second encoder's pooled text, and the picture's sizes ("time ids": height and
width before rescaling, top and left of the crop, height and width; section 2.2). The sizes are those of the
picture at hand, uncropped, as in diffusers' pipeline.

An empty prompt is a row of zeros where the model was trained so (``force_zeros_for_empty_prompt``).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from guidance.families.components import require_components
from guidance.families.latent_diffusion import load_autoencoder
from guidance.families.registry import family
from guidance.families.text import load_tokenizer, tokenize
from guidance.families.unet import UNetPrior, load_variance_preserving
from guidance.frozen_model import TextEmbeddings
from guidance.model_files import ModelFiles
from guidance.schedule import Latents

COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")


@family("StableDiffusionXLPipeline", preset="sdxl")
class StableDiffusionXLPrior(UNetPrior):
    """The family's base models."""

    lora_loader = StableDiffusionXLLoraLoaderMixin
    lora_parts = ("unet", "text_encoder", "text_encoder_2")
    inputs = MappingProxyType({"addition_embed_type": "text_time"})  # pooled text and sizes

    zero_empty: bool = True  # whether the model was trained with zeros for an empty prompt; diffusers' default

    @classmethod
    def load(
        cls, files: ModelFiles, index: dict[str, Any], device: torch.device, dtype: torch.dtype
    ) -> StableDiffusionXLPrior:
        require_components(files, index, COMPONENTS)
        scheduler = load_variance_preserving(files, index)
        unet = cls.load_network(UNet2DConditionModel, files, "unet", device, dtype)
        autoencoder = load_autoencoder(files, device, dtype)
        tokenizers = tuple(load_tokenizer(CLIPTokenizer, files, name) for name in ("tokenizer", "tokenizer_2"))
        prior = cls(unet, autoencoder, scheduler, tokenizers, files, device, dtype)
        prior.zero_empty = index.get("force_zeros_for_empty_prompt", prior.zero_empty)
        return prior

    def _load_text_encoders(self) -> tuple[nn.Module, ...]:
        return (
            self.load_text_encoder(CLIPTextModel, "text_encoder"),
            self.load_text_encoder(CLIPTextModelWithProjection, "text_encoder_2"),
        )

    @torch.no_grad()
    def _embed(self, prompts: list[str]) -> TextEmbeddings:
        hidden, pooled = [], None
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            tokens = tokenize(tokenizer, prompts).to(self.device)
            output = encoder(tokens, output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
            pooled = getattr(output, "text_embeds", None)  # the second encoder's
        text = TextEmbeddings(torch.cat(hidden, dim=-1), pooled)
        if self.zero_empty:
            empty = torch.tensor([not prompt for prompt in prompts], device=self.device)
            text.tokens[empty], text.pooled[empty] = 0, 0
        return text

    def time_ids(self, x_t: Latents) -> Float[Tensor, "batch 6"]:
        """Size before rescaling, corner of the crop, size: pixels, height before width."""
        height, width = (self.downscale * side for side in x_t.shape[-2:])
        sizes = x_t.new_zeros(6, dtype=torch.float32)  # filled on the device: a recorded call copies nothing to it
        sizes[0::4], sizes[1::4] = height, width
        return sizes.expand(len(x_t), -1)

    def run_network(self, network: nn.Module, x_t: Latents, t: Int[Tensor, "batch"], text: TextEmbeddings) -> Latents:
        dtype = self.network.dtype  # not that of a twin, whose adapters are float32
        conditions = {"text_embeds": text.pooled.to(dtype), "time_ids": self.time_ids(x_t)}
        return network(x_t.to(dtype), t, text.tokens.to(dtype), added_cond_kwargs=conditions).sample.float()
