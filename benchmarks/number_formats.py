"""How far number formats of the frozen weights move the gradients of VSD, with the bundled prior on this machine's CPU.

    python -m benchmarks.number_formats                    # bf16 and fp16 against float32; some five minutes
    python -m benchmarks.number_formats --views 1 --levels 0.5

Samples of the prior stand for renders of a finished scene. The estimator's second matrices are random and small, so
that its score differs from the frozen network's. An error is the norm of the difference over the norm in float32.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from guidance.config import EstimatorConfig, GuidanceConfig
from guidance.estimator import LoraEstimator
from guidance.gradients import as_loss
from guidance.loading import load_prior
from guidance.prompts import PromptEmbeddings, embed_prompt
from guidance.score_distillation import ScoreDistillation
from renderers.cameras import Cameras, orbit_cameras

PRIOR = Path(__file__).resolve().parents[1] / "priors" / "mini"
PROMPT = "a red mug"
LEVELS = (0.02, 0.2, 0.5, 0.8, 0.95)
WIDTH = 0.02  # of the range of levels that is drawn from
LEARNT = 0.02  # standard deviation of the second matrices


@dataclass(frozen=True)
class Gradients:
    """At one noise level."""

    latents: Tensor  # VSD's, of the latents
    images: Tensor  # the same, through the autoencoder
    estimator: Tensor  # of all trained parameters, in a row


def errors(found: Gradients, exact: Gradients) -> dict[str, float]:
    """By gradient, the norm of the difference over the norm."""
    pairs = {name: (getattr(found, name), getattr(exact, name)) for name in ("latents", "images", "estimator")}
    return {name: ((one - other).norm() / other.norm()).item() for name, (one, other) in pairs.items()}


def measured(dtype: torch.dtype, images: Tensor, levels: tuple[float, ...]) -> list[Gradients]:
    """The gradients at each level, with the frozen weights in ``dtype``."""
    guidance, prompts, cameras = _guidance(dtype, len(images))
    found = []
    for low in levels:
        t_range, x = (low, low + WIDTH), images.clone().requires_grad_()
        latents = guidance.encode(x)
        gradient = guidance.gradient(latents, prompts, cameras, t_range, _generator(1)).gradient
        as_loss(latents, gradient).backward()
        guidance.zero_grad()
        guidance.estimator_loss(latents, prompts, cameras, _generator(2), t_range).backward()
        trained = [parameter.grad.flatten() for parameter in guidance.parameters() if parameter.grad is not None]
        assert x.grad is not None
        found.append(Gradients(gradient, x.grad, torch.cat(trained)))
    return found


def views_of(count: int) -> Tensor:
    """Images that the prior draws of the prompt."""
    guidance, prompts, cameras = _guidance(torch.float32, count)
    return guidance.samples(prompts, cameras, 8, _generator(0))[0]


def _guidance(dtype: torch.dtype, views: int) -> tuple[ScoreDistillation, PromptEmbeddings, Cameras]:
    prior, generator = load_prior(PRIOR, dtype=dtype), _generator(0)
    estimator = LoraEstimator(prior, EstimatorConfig(rank=8, layers="all"), generator)
    with torch.no_grad():
        for name, parameter in estimator.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, LEARNT, generator=generator)
    ones = torch.ones(views)
    cameras = orbit_cameras(torch.arange(views) * 360.0 / views, 20 * ones, 2.9 * ones, 41 * ones)
    guidance = ScoreDistillation(prior, estimator, GuidanceConfig(guidance_scale=7.5))
    return guidance, embed_prompt(prior, PROMPT), cameras


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--levels", type=float, nargs="+", default=LEVELS, help="fractions of the noise schedule")
    args = parser.parse_args(arguments)
    images, levels = views_of(args.views), tuple(args.levels)
    exact = measured(torch.float32, images, levels)
    print("| format | t | VSD, latents | VSD, images | estimator |\n|---|---|---|---|---|")
    for name, dtype in {"bf16": torch.bfloat16, "fp16": torch.float16}.items():
        for level, found, other in zip(levels, measured(dtype, images, levels), exact, strict=True):
            shares = " | ".join(f"{error:.2%}" for error in errors(found, other).values())
            print(f"| {name} | {level:g} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
