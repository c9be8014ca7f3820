"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206).

A transformer over the tokens of picture and text together (MMDiT), trained by flow matching. It reads, one
after the other, the tokens of two CLIP text encoders (their last hidden states but one, side by side, padded
with zeros to T5's width) and those of T5; and the pooled texts of both CLIPs. T5, by far the largest part,
may be left out of the model's folder: its tokens are zeros then, which the network was trained to understand.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from diffusers.loaders import SD3LoraLoaderMixin
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from guidance.families.components import is_listed
from guidance.families.flow import FlowTransformerPrior, TokenGrid
from guidance.families.registry import family
from guidance.families.text import load_tokenizer, tokenize
from guidance.frozen_model import TextEmbeddings
from guidance.model_files import ModelFiles
from guidance.schedule import Latents

CLIP = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
T5 = ("tokenizer_3", "text_encoder_3")  # optional
COMPONENTS = ("transformer", "vae", *(name for pair in CLIP for name in pair), "scheduler")
T5_TOKENS = 256  # diffusers' default, the longer of the two in training


@family("StableDiffusion3Pipeline", preset="sd35")
class StableDiffusion3Prior(FlowTransformerPrior):
    """The family's text-to-image models."""

    network_class = SD3Transformer2DModel
    lora_loader = SD3LoraLoaderMixin
    lora_parts = ("transformer", "text_encoder", "text_encoder_2")

    @classmethod
    def load(
        cls, files: ModelFiles, index: dict[str, Any], device: torch.device, dtype: torch.dtype
    ) -> StableDiffusion3Prior:
        has_t5 = any(is_listed(index, name) for name in T5)
        parts = cls.load_parts(files, index, (*COMPONENTS, *T5) if has_t5 else COMPONENTS, device, dtype)
        clip = (load_tokenizer(CLIPTokenizer, files, name) for name, _ in CLIP)
        tokenizers = (*clip, load_tokenizer(T5TokenizerFast, files, T5[0]) if has_t5 else None)
        return cls(*parts, tokenizers, files, device, dtype)

    @staticmethod
    def grid(transformer: nn.Module, autoencoder: AutoencoderKL) -> TokenGrid:
        return TokenGrid(transformer.config.sample_size, transformer.config.patch_size)

    def _load_text_encoders(self) -> tuple[nn.Module | None, ...]:
        has_t5 = self.tokenizers[-1] is not None
        clip = [self.load_text_encoder(CLIPTextModelWithProjection, name) for _, name in CLIP]
        return (*clip, self.load_text_encoder(T5EncoderModel, T5[1]) if has_t5 else None)

    @torch.no_grad()
    def _embed(self, prompts: list[str]) -> TextEmbeddings:
        *clips, t5 = self.text_encoders
        hidden, pooled = [], []
        for tokenizer, encoder in zip(self.tokenizers[:2], clips, strict=True):
            tokens = tokenize(tokenizer, prompts, may_cut=t5 is not None)
            output = encoder(tokens.to(self.device), output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
            pooled.append(output.text_embeds)
        clip_tokens = torch.cat(hidden, dim=-1)
        t5_tokens = self._embed_t5(t5, prompts, clip_tokens)
        clip_tokens = nn.functional.pad(clip_tokens, (0, t5_tokens.shape[-1] - clip_tokens.shape[-1]))
        return TextEmbeddings(torch.cat([clip_tokens, t5_tokens], dim=1), torch.cat(pooled, dim=-1))

    def _embed_t5(
        self, encoder: nn.Module | None, prompts: list[str], like: Float[Tensor, "batch _ _"]
    ) -> Float[Tensor, "batch tokens width"]:
        """T5's tokens, or zeros of ``like``'s dtype in their place."""
        if encoder is None:
            return like.new_zeros(len(prompts), T5_TOKENS, self.network.config.joint_attention_dim)
        tokens = tokenize(self.tokenizers[-1], prompts, T5_TOKENS, is_alone=False)
        return encoder(tokens.to(self.device)).last_hidden_state

    def run_network(self, network: nn.Module, x_t: Latents, t: Int[Tensor, "batch"], text: TextEmbeddings) -> Latents:
        dtype = self.network.dtype  # not that of a twin, whose adapters are float32
        return network(
            hidden_states=x_t.to(dtype),
            timestep=self.schedule.sigma(t).flatten() * len(self.schedule),
            encoder_hidden_states=text.tokens.to(dtype),
            pooled_projections=text.pooled.to(dtype),
        ).sample.float()
