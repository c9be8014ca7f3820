"""FLUX.1 (Black Forest Labs 2024; flow matching: Lipman et al. 2023, arXiv 2210.02747).

A transformer over the tokens of text (T5) and picture (2x2 latents each), trained by flow matching, that
also reads CLIP's pooled text. Positions are rotary: (0, row, column) of a picture's token, 0 of a text's.

*Guidance.* FLUX.1-dev is guidance-distilled (Meng et al. 2023, arXiv 2210.03142): it reads a guidance scale g
as a further input and predicts in one pass what classifier-free guidance of that scale would. It was never
trained to predict without a text, so that the pair eps_u, eps_c is not what it is elsewhere. Hence, with
diffusers' names for both scales:

- The *embedded* scale g belongs to a text (``TextEmbeddings.guidance``). The frozen score reads 3.5, the value
  of the model's card, or ``TextConfig.embedded_guidance``. The estimator reads 1, no guidance: the paper
  guides eps_pretrain only, and renders are to be described as they are. So VSD's gradient begins as
  w(t) (eps(g) - eps(1)), which is what w(t) (g - 1) (eps_c - eps_u) was distilled into.
- ``guidance_scale`` is *true* classifier-free guidance as in every family, with the negative prompt in the
  other half of the pair and g in both. 1, the preset's value, switches it off and saves half of the frozen
  score's cost. It is there for negative prompts, and for losses that need the pair (CSD).

FLUX.1-schnell has no such input and was distilled to few steps: its predictions at a single noise level are no
score. It can be loaded, but not much should be expected of it.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.loaders import FluxLoraLoaderMixin
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from guidance.families.flow import FlowTransformerPrior, TokenGrid
from guidance.families.registry import family
from guidance.families.text import load_tokenizer, tokenize
from guidance.frozen_model import TextEmbeddings
from guidance.model_files import ModelFiles
from guidance.schedule import Latents

COMPONENTS = ("transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
T5_TOKENS = 512  # diffusers' default for FLUX.1-dev; schnell was trained with 256
PATCH = 2  # latents along a side of a token
EMBEDDED_GUIDANCE = 3.5


@family("FluxPipeline", preset="flux")
class FluxPrior(FlowTransformerPrior):
    """The family's text-to-image models."""

    network_class = FluxTransformer2DModel
    lora_loader = FluxLoraLoaderMixin
    lora_parts = ("transformer", "text_encoder")

    @classmethod
    def load(cls, files: ModelFiles, index: dict[str, Any], device: torch.device, dtype: torch.dtype) -> FluxPrior:
        parts = cls.load_parts(files, index, COMPONENTS, device, dtype)
        kinds = {"tokenizer": CLIPTokenizer, "tokenizer_2": T5TokenizerFast}
        tokenizers = tuple(load_tokenizer(kind, files, name) for name, kind in kinds.items())
        return cls(*parts, tokenizers, files, device, dtype)

    @staticmethod
    def grid(transformer: nn.Module, autoencoder: AutoencoderKL) -> TokenGrid:
        """The transformer names no size of its own; the autoencoder's is the family's 1024 pixels."""
        side = autoencoder.config.sample_size // 2 ** (len(autoencoder.config.block_out_channels) - 1)
        return TokenGrid(side, PATCH, packed=PATCH**2)

    def _load_text_encoders(self) -> tuple[nn.Module, ...]:
        return (
            self.load_text_encoder(CLIPTextModel, "text_encoder"),
            self.load_text_encoder(T5EncoderModel, "text_encoder_2"),
        )

    @torch.no_grad()
    def _embed(self, prompts: list[str]) -> TextEmbeddings:
        clip, t5 = self.text_encoders
        pooled = clip(tokenize(self.tokenizers[0], prompts, may_cut=True).to(self.device)).pooler_output
        tokens = t5(tokenize(self.tokenizers[1], prompts, T5_TOKENS, is_alone=False).to(self.device)).last_hidden_state
        guidance = None
        if self.network.config.guidance_embeds:
            guidance = torch.full((len(prompts),), EMBEDDED_GUIDANCE, device=self.device)
        return TextEmbeddings(tokens, pooled, guidance)

    def run_network(self, network: nn.Module, x_t: Latents, t: Int[Tensor, "batch"], text: TextEmbeddings) -> Latents:
        dtype = self.network.dtype  # not that of a twin, whose adapters are float32
        rows, columns = (side // PATCH for side in x_t.shape[-2:])
        output = network(
            hidden_states=pack(x_t).to(dtype),
            timestep=self.schedule.sigma(t).flatten(),
            guidance=text.guidance,
            encoder_hidden_states=text.tokens.to(dtype),
            pooled_projections=text.pooled.to(dtype),
            txt_ids=x_t.new_zeros(text.tokens.shape[1], 3),
            img_ids=positions(rows, columns, x_t.device),
        ).sample
        return unpack(output, rows).float()


def pack(latents: Latents) -> Float[Tensor, "batch tokens width"]:
    """2x2 latents to a token, rows first."""
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=PATCH, q=PATCH)


def unpack(tokens: Float[Tensor, "batch tokens width"], rows: int) -> Latents:
    """The inverse of ``pack``."""
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, p=PATCH, q=PATCH)


def positions(rows: int, columns: int, device: torch.device) -> Float[Tensor, "tokens 3"]:
    """(0, row, column) of each of a picture's tokens."""
    grid = torch.cartesian_prod(*(torch.arange(n, device=device, dtype=torch.float32) for n in (rows, columns)))
    return nn.functional.pad(grid, (1, 0))
