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

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from guidance.families.attention import attention_projections
from guidance.families.components import load_component, require_components
from guidance.families.flow import load_flow_schedule
from guidance.families.latent_diffusion import LatentDiffusionPrior, check_channels, load_autoencoder
from guidance.families.text import check_tokenizer, tokenize
from guidance.prior import Latents, NetworkTraits, TextEmbeddings
from guidance.schedule import NoiseSchedule

COMPONENTS = ("transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
T5_TOKENS = 512  # diffusers' default for FLUX.1-dev; schnell was trained with 256
PATCH = 2  # latents along a side of a token
EMBEDDED_GUIDANCE = 3.5


class FluxPrior(LatentDiffusionPrior):
    """The family's text-to-image models, from a folder or the hub."""

    preset = "flux"  # file of configs/prior that fits the family

    @classmethod
    def load(cls, source: Path | str, index: dict[str, Any], device: torch.device, dtype: torch.dtype) -> FluxPrior:
        """All parts except the text encoders, which are loaded when a prompt comes.

        Raises:
            FileNotFoundError: a part, or a file of one, is missing.
            ValueError: a network of another family or task, or a scheduler that is none of a flow.
        """
        require_components(source, index, COMPONENTS)
        transformer = load_component(FluxTransformer2DModel, source, "transformer", device, torch_dtype=dtype)
        autoencoder = load_autoencoder(source, device, dtype)
        schedule = load_flow_schedule(source, index, (latent_side(autoencoder) // PATCH) ** 2)
        clip = load_component(CLIPTokenizer, source, "tokenizer")
        t5 = load_component(T5TokenizerFast, source, "tokenizer_2")
        for tokenizer, name in ((clip, "tokenizer"), (t5, "tokenizer_2")):
            check_tokenizer(tokenizer, source, name)
        return cls(transformer, autoencoder, schedule, (clip, t5), source, device, dtype)

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        autoencoder: AutoencoderKL,
        schedule: NoiseSchedule,
        tokenizers: tuple[CLIPTokenizer, T5TokenizerFast],
        source: Path | str,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        check_channels("transformer", transformer.config.in_channels, autoencoder, source, packed=PATCH**2)
        side = latent_side(autoencoder)
        super().__init__(
            network=transformer,
            autoencoder=autoencoder,
            schedule=schedule,
            prediction_type="flow",
            latent_size=(side, side),
            traits=NetworkTraits(
                lora_targets=attention_projections(transformer),
                condition_module="time_text_embed",
                condition_width=transformer.inner_dim,
            ),
            tokenizers=tokenizers,
            source=source,
            device=device,
            dtype=dtype,
            patch=PATCH,
        )

    def _load_text_encoders(self) -> tuple[nn.Module, ...]:
        return (
            load_component(CLIPTextModel, self.source, "text_encoder", self.device, dtype=self.dtype),
            load_component(T5EncoderModel, self.source, "text_encoder_2", self.device, dtype=self.dtype),
        )

    @torch.no_grad()
    def _embed(self, prompts: list[str]) -> TextEmbeddings:
        clip, t5 = self.text_encoders
        pooled = clip(tokenize(self.tokenizers[0], prompts, t5_limit=T5_TOKENS).to(self.device)).pooler_output
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


def latent_side(autoencoder: AutoencoderKL) -> int:
    """The transformer names no size of its own; the autoencoder's is the family's 1024 pixels."""
    return autoencoder.config.sample_size // 2 ** (len(autoencoder.config.block_out_channels) - 1)
