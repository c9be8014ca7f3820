"""DDIM inversion: the noise that the frozen model itself would turn into given latents.

Song et al. 2021 (DDIM, arXiv 2010.02502, section 4.3). The sampler's step (``guidance/sampling.py``), taken
towards noise: from level s to the next noisier one t by

    x_t = alpha_t x_0 + sigma_t eps,

with the network's x_0 and eps at s. Written in x_0 and eps, it holds for variance-preserving schedules and for
flows, whatever the network predicts. Clean latents lie below the lowest level: there x_0 is known, and eps is
read at level 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from guidance.config import InversionConfig
from guidance.schedule import Latents, NoiseSchedule, Prediction

Predict = Callable[[Latents, Int[Tensor, "batch"]], Prediction]


@dataclass(frozen=True)
class Inversion:
    """Where the inversion ends."""

    x_t: Latents  # at the last level
    epsilon: Latents  # of the last step: the prediction at the level before


def inversion_levels(
    t: Int[Tensor, "batch"], config: InversionConfig, schedule: NoiseSchedule
) -> Int[Tensor, "steps batch"]:
    """Rising levels that end at each sample's t: evenly spaced up to t, or up to t less the interval."""
    if config.interval is None:
        even, end = config.steps, t
    else:
        even, end = config.steps - 1, (t - round(config.interval * len(schedule))).clamp(min=0)
    levels = [(end * step) // even for step in range(1, even + 1)]
    return torch.stack(levels if config.interval is None else [*levels, t])


@torch.no_grad()
def invert(predict: Predict, x_0: Latents, levels: Int[Tensor, "steps batch"], schedule: NoiseSchedule) -> Inversion:
    """Follow ``predict`` from clean latents up the levels."""
    clean, epsilon = x_0, predict(x_0, torch.zeros_like(levels[0])).epsilon
    for level in levels[:-1]:
        prediction = predict(schedule.add_noise(clean, epsilon, level), level)
        clean, epsilon = prediction.x_0, prediction.epsilon
    return Inversion(schedule.add_noise(clean, epsilon, levels[-1]), epsilon)
