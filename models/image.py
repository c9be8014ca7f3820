"""A picture as theta: the simplest differentiable image parameterisation, which has no camera."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class ImageConfig:
    """How a picture begins."""

    spread: float = 0.5  # standard deviation of the first logits: pixels around mid-grey

    def __post_init__(self) -> None:
        if self.spread < 0:
            raise ValueError(f"spread: {self.spread:g} must be 0 or more; 0 starts from plain grey")


class PixelImage(nn.Module):
    """rgb = sigmoid(logits): colours stay in [0, 1], and no gradient is lost at the ends as by a clamp."""

    def __init__(self, config: ImageConfig, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.logits = nn.Parameter(config.spread * torch.randn(size, size, 3, generator=generator))

    def forward(self) -> Float[Tensor, "height width 3"]:
        return torch.sigmoid(self.logits)
