"""What a run that has gone wrong beyond recovery looks like, and the error that ends it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from renderers.output import RenderOutput

OVERFLOW_ADVICE = (
    "a number format of wider range (trainer.precision=32-true with prior.precision=bf16, or fp32), "
    "or lower learning rates (those of the section optimizer, estimator_optimizer.lr)"
)


class CollapseError(RuntimeError):
    """A scene or a number that no further iteration will mend.

    ``checkpoint`` is filled in by the checkpoint callback, which hears of the error before the user
    does: a checkpoint from before, newly written where the state is still sound.
    """

    def __init__(self, quantity: str, iteration: int, advice: str, state_is_sound: bool = False) -> None:
        super().__init__(quantity, iteration, advice)
        self.quantity = quantity
        self.iteration = iteration
        self.advice = advice
        self.state_is_sound = state_is_sound  # nothing was updated yet in this iteration
        self.checkpoint: Path | None = None

    def __str__(self) -> str:
        where = "there is no checkpoint from before" if self.checkpoint is None else f"go on from {self.checkpoint}"
        return f"{self.quantity} at iteration {self.iteration}; try {self.advice}; {where}"


def require_finite(quantity: str, value: float, iteration: int, state_is_sound: bool) -> None:
    """Raise a `CollapseError` where a number is NaN or infinite."""
    if not math.isfinite(value):
        advice = (
            "lower learning rates (those of the section optimizer, estimator_optimizer.lr), a limit on gradients "
            "(optimizer.clip_norm, guidance.max_gradient_rms), or a wider number format (trainer.precision=32-true)"
        )
        raise CollapseError(f"{quantity} is {value:g}", iteration, advice, state_is_sound)


@dataclass(frozen=True)
class Vitals:
    """What tells a living scene from a dead one, averaged over an iteration's views (and ranks)."""

    opacity: float  # mean
    opaque: float  # share of pixels of opacity above 0.99
    saturated: float  # share of channels of opaque pixels that are at 0 or 1 (within 1/255); 0 if none is opaque


def mean(several: Sequence[Vitals]) -> Vitals:
    """The mean of each number."""
    return Vitals(*(sum(values) / len(several) for values in zip(*(astuple(each) for each in several), strict=True)))


def measure(views: RenderOutput) -> Vitals:
    """The vitals of rendered views."""
    opaque = views.opacity[..., 0] > 0.99
    colors = views.rgb[opaque]
    at_limit = (colors < 1 / 255) | (colors > 254 / 255)
    saturated = at_limit.float().mean().item() if colors.numel() else 0.0
    return Vitals(views.opacity.mean().item(), opaque.float().mean().item(), saturated)
