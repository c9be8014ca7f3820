"""Noise levels, and the forms in which a network can predict.

A noisy latent is x_t = alpha_t x_0 + sigma_t eps. Two kinds of schedule appear:

- variance preserving (Ho et al. 2020, arXiv 2006.11239): alpha_t^2 + sigma_t^2 = 1. Networks predict
  eps, or v = alpha_t eps - sigma_t x_0 (Salimans & Ho 2022, arXiv 2202.00512, appendix D).
- flow matching (Lipman et al. 2023, arXiv 2210.02747; Esser et al. 2024, arXiv 2403.03206):
  alpha_t = 1 - s, sigma_t = s. Networks predict the velocity u = dx_t/ds = eps - x_0.

``alpha`` and ``sigma`` broadcast against the latents ("batch 1 1 1"). Tables are float32, computed in
float64. Every function below is linear in the prediction, so that classifier-free guidance means the
same thing in each form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.transfer import to_device

PREDICTION_TYPES = ("epsilon", "v", "flow")

Latents = Float[Tensor, "batch channels latent_height latent_width"]
Levels = Float[Tensor, "batch 1 1 1"]


@dataclass(frozen=True)
class NoiseSchedule:
    """alpha_t and sigma_t for t = 0 .. n-1, from clean to noisy."""

    alphas: Float[Tensor, "n"]
    sigmas: Float[Tensor, "n"]

    def __post_init__(self) -> None:
        if self.alphas.is_meta:
            return  # no numbers to check: a dry run, guidance/dry_run.py
        ratio = self.alphas / self.sigmas
        if not (self.sigmas > 0).all() or not (self.alphas >= 0).all() or not (ratio.diff() < 0).all():
            raise ValueError(
                "schedule: need alphas >= 0, sigmas > 0 and alphas / sigmas falling with t; "
                f"received alphas {self.alphas.tolist()[:3]}..., sigmas {self.sigmas.tolist()[:3]}...; "
                "check the model's scheduler/scheduler_config.json"
            )

    @classmethod
    def variance_preserving(cls, alphas_cumprod: Float[Tensor, "n"]) -> NoiseSchedule:
        """From the cumulated alphas of diffusers' schedulers."""
        squared = alphas_cumprod.double()
        return cls(squared.sqrt().float(), (1 - squared).sqrt().float())

    @classmethod
    def flow_matching(cls, levels: Float[Tensor, "n"]) -> NoiseSchedule:
        """From the times s in (0, 1] of a rectified flow, in rising order."""
        levels = levels.double()
        return cls((1 - levels).float(), levels.float())

    def __len__(self) -> int:
        return self.alphas.shape[0]

    @property
    def levels_with_signal(self) -> int:
        """How many levels have an alpha above 0; the rest, the noisiest ones, are noise alone."""
        return len(self) if self.alphas.is_meta else int((self.alphas > 0).sum())

    def to(self, device: torch.device | str) -> NoiseSchedule:
        return NoiseSchedule(self.alphas.to(device), self.sigmas.to(device))

    def alpha(self, t: Int[Tensor, "batch"]) -> Levels:
        return self.alphas.to(t.device)[t].view(-1, 1, 1, 1)

    def sigma(self, t: Int[Tensor, "batch"]) -> Levels:
        return self.sigmas.to(t.device)[t].view(-1, 1, 1, 1)

    def weight(self, t: Int[Tensor, "batch"]) -> Levels:
        """w(t): the share of noise in the variance of x_t, 1 - alphas_cumprod[t] where that exists."""
        alpha, sigma = self.alpha(t), self.sigma(t)
        return sigma.square() / (alpha.square() + sigma.square())

    def x0_weight(self, t: Int[Tensor, "batch"]) -> Levels:
        """sigma / alpha, by which a difference of eps becomes one of x_0; infinite where alpha is 0."""
        return self.sigma(t) / self.alpha(t)

    def add_noise(self, x_0: Latents, noise: Latents, t: Int[Tensor, "batch"]) -> Latents:
        """x_t = alpha_t x_0 + sigma_t eps."""
        return self.alpha(t) * x_0 + self.sigma(t) * noise

    def sample_t(
        self, count: int, t_range: tuple[float, float], generator: torch.Generator, device: torch.device | str
    ) -> Int[Tensor, "batch"]:
        """Noise levels uniform over ``t_range``, given as fractions of the schedule's length in [0, 1].

        One from each of ``count`` equal parts of the range, in random order: every level of a batch is uniform, and the
        batch covers the range, which makes its mean gradient quieter. Drawn on the generator's device, so that a seed
        means the same levels everywhere.
        """
        low, high = check_t_range(t_range)
        device_of_draws = generator.device
        parts = torch.randperm(count, generator=generator, device=device_of_draws)
        within = torch.rand(count, generator=generator, device=device_of_draws)
        fraction = low + (high - low) * (parts + within) / max(count, 1)
        return to_device((fraction * len(self)).long().clamp(max=len(self) - 1), device)


def check_t_range(t_range: tuple[float, float]) -> tuple[float, float]:
    """The range itself, if it is one.

    Raises:
        ValueError: inverted, outside [0, 1], or not finite.
    """
    low, high = t_range
    if not (math.isfinite(low) and math.isfinite(high) and 0 <= low <= high <= 1):
        raise ValueError(
            f"t_range: [{low:g}, {high:g}] is no range of noise levels; "
            "write [low, high] with 0 <= low <= high <= 1, such as [0.02, 0.98]"
        )
    return low, high


def x0_from_epsilon(epsilon: Latents, x_t: Latents, alpha: Levels, sigma: Levels) -> Latents:
    """x_0 = (x_t - sigma eps) / alpha; undefined where alpha is 0."""
    return (x_t - sigma * epsilon) / alpha


def epsilon_from_x0(x_0: Latents, x_t: Latents, alpha: Levels, sigma: Levels) -> Latents:
    """eps = (x_t - alpha x_0) / sigma."""
    return (x_t - alpha * x_0) / sigma


def epsilon_from_v(v: Latents, x_t: Latents, alpha: Levels, sigma: Levels) -> Latents:
    """eps = alpha v + sigma x_t."""
    return alpha * v + sigma * x_t


def x0_from_v(v: Latents, x_t: Latents, alpha: Levels, sigma: Levels) -> Latents:
    """x_0 = alpha x_t - sigma v."""
    return alpha * x_t - sigma * v


def epsilon_from_flow(flow: Latents, x_t: Latents, alpha: Levels, sigma: Levels) -> Latents:
    """eps = x_t + alpha u."""
    return x_t + alpha * flow


def x0_from_flow(flow: Latents, x_t: Latents, alpha: Levels, sigma: Levels) -> Latents:
    """x_0 = x_t - sigma u."""
    return x_t - sigma * flow


@dataclass(frozen=True)
class Prediction:
    """A network's raw output at one noise level, readable in every form.

    Keeping the raw output postpones the conversion until it is known which form is needed: x_0 from v
    or from a flow is well defined even where alpha is 0, while through eps it would not be.
    """

    output: Latents
    prediction_type: str  # one of PREDICTION_TYPES
    x_t: Latents
    alpha: Levels
    sigma: Levels

    @property
    def epsilon(self) -> Latents:
        if self.prediction_type == "epsilon":
            return self.output
        convert = epsilon_from_v if self.prediction_type == "v" else epsilon_from_flow
        return convert(self.output, self.x_t, self.alpha, self.sigma)

    @property
    def x_0(self) -> Latents:
        convert = {"epsilon": x0_from_epsilon, "v": x0_from_v, "flow": x0_from_flow}[self.prediction_type]
        return convert(self.output, self.x_t, self.alpha, self.sigma)

    def target(self, x_0: Latents, noise: Latents) -> Latents:
        """The output that would be right, given what x_t was made of."""
        if self.prediction_type == "epsilon":
            return noise
        return self.alpha * noise - self.sigma * x_0 if self.prediction_type == "v" else noise - x_0

    def with_output(self, output: Latents) -> Prediction:
        """The same noisy latents with another output, such as a guided one."""
        return Prediction(output, self.prediction_type, self.x_t, self.alpha, self.sigma)
