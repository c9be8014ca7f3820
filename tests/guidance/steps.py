"""One step of score distillation on tiny random priors, and what it has to come to, written out."""

from __future__ import annotations

from dataclasses import dataclass
from unittest import mock

import pytest
import torch

from guidance import score_distillation
from guidance.building import build_guidance
from guidance.config import EstimatorConfig, GuidanceConfig, InversionConfig, NfsdConfig, TextConfig
from guidance.frozen_model import TextEmbeddings
from guidance.prior import DiffusionPrior
from guidance.prompts import embed_prompt
from guidance.registry import LOSSES
from guidance.score_distillation import ScoreDistillation, draw_noise
from renderers.cameras import Cameras

LATENT_LOSSES = tuple(name for name, loss in LOSSES.items() if loss.reads == "latents")
RANGE = (0.02, 0.98)
# For what does not depend on the family: a UNet that predicts noise, and a transformer that predicts a flow.
TWO_KINDS = pytest.mark.parametrize("prior", ["epsilon", "sd3"], indirect=True)


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents_of(prior: DiffusionPrior, cameras: Cameras) -> torch.Tensor:
    return torch.randn(len(cameras), *prior.latent_shape, generator=seeded(7))


def guidance_of(prior: DiffusionPrior, **config) -> ScoreDistillation:
    return build_guidance(prior, GuidanceConfig(**config), EstimatorConfig(), seeded(0))


def config_of(loss: str, **fields) -> GuidanceConfig:
    """With a text and an inversion that tiny priors can read."""
    flaws, inversion = NfsdConfig(low_quality="a blue chair"), InversionConfig(steps=2, guidance_scale=-1.0)
    return GuidanceConfig(loss=loss, nfsd=flaws, inversion=inversion, **fields)


@dataclass(frozen=True)
class Step:
    """What a step returned, and the x_t and t that the frozen network was asked at last."""

    gradient: torch.Tensor
    x_t: torch.Tensor
    t: torch.Tensor


def step(prior: DiffusionPrior, cameras: Cameras, config: GuidanceConfig, latents=None, **text) -> Step:
    prompts = embed_prompt(prior, "a red mug", TextConfig(**text), config.further_texts, release_text_encoder=False)
    guidance = build_guidance(prior, config, EstimatorConfig(), seeded(0))
    latents = latents_of(prior, cameras) if latents is None else latents
    with mock.patch.object(score_distillation, "predict", wraps=score_distillation.predict) as asked:
        gradient = guidance.gradient(latents, prompts, cameras, RANGE, seeded()).gradient
    _, x_t, t, _ = asked.call_args.args
    return Step(gradient, x_t, t)


def draws(prior: DiffusionPrior, latents: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Noise levels and noise that ``ScoreDistillation.gradient`` draws, in its order."""
    t = prior.schedule.sample_t(len(latents), RANGE, generator, "cpu")
    return t, draw_noise(latents, generator)


@torch.no_grad()
def noise_pred(prior: DiffusionPrior, x_t: torch.Tensor, t: torch.Tensor, text: TextEmbeddings) -> torch.Tensor:
    """eps_pretrain(x_t, t, y), whatever the network predicts."""
    return prior.predict(x_t, t, text).epsilon
