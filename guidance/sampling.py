"""Deterministic DDIM: from noise to the latents of a picture.

DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 with sigma = 0): step from level t to the
next cleaner one s by x_s = alpha_s x_0 + sigma_s eps, with the network's x_0 and eps at t. For a flow
this is Euler's method along the straight paths.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from guidance.schedule import Latents, NoiseSchedule, Prediction


def sampling_levels(schedule: NoiseSchedule, steps: int) -> Int[Tensor, "steps"]:
    """Evenly spaced noise levels from the noisiest down, without the clean end.

    Raises:
        ValueError: fewer than one step, or more than the schedule has levels.
    """
    if not 1 <= steps <= len(schedule):
        raise ValueError(f"steps: {steps} is not in 1..{len(schedule)}, the levels of this model's schedule")
    return torch.linspace(len(schedule) - 1, 0, steps + 1)[:-1].round().long()


@torch.no_grad()
def ddim(
    predict: Callable[[Latents, Int[Tensor, "batch"]], Prediction], noise: Latents, schedule: NoiseSchedule, steps: int
) -> Latents:
    """Latents that the noise turns into."""
    x_t, levels = noise, sampling_levels(schedule, steps)
    for index, level in enumerate(levels):
        prediction = predict(x_t, level.expand(len(noise)).to(noise.device))
        if index + 1 == len(levels):
            return prediction.x_0
        cleaner = levels[index + 1].expand(len(noise)).to(noise.device)
        x_t = schedule.add_noise(prediction.x_0, prediction.epsilon, cleaner)
    raise AssertionError("sampling_levels returned no level")
