"""Texture field of stage 3: hash grid -> small MLP -> colour, asked at points of a surface that stays as it is.

Colour is sigmoid(network), sRGB, and does not depend on the view, as in `models.fields`. The field
fills the cube [-radius, radius]^3 in scene units; outside it repeats its border values.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.config import TextureFieldConfig
from models.hash_grid import HashGrid
from models.mlp import MLP


class TextureField(nn.Module):
    """Colours at points in scene units; grey at first."""

    def __init__(self, config: TextureFieldConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.grid = HashGrid(config.grid, generator)
        self.mlp = MLP([self.grid.channels, *config.hidden, 3], generator)

    def forward(self, points: Float[Tensor, "n 3"], active_levels: float | None = None) -> Float[Tensor, "n 3"]:
        """sRGB in [0, 1]; ``active_levels`` as in `HashGrid.forward`."""
        unit = points.float() / (2 * self.config.radius) + 0.5
        return torch.sigmoid(self.mlp(self.grid(unit.clamp(0, 1), active_levels)).float())
