"""Occupancy grid: which cells of the scene's cube may hold anything (Müller et al. 2022, section C.1).

Each cell remembers the largest density seen in it, decaying with every update; rays skip the cells
below a threshold. Cell (i, j, k) of axes (x, y, z) covers an equal share of [-radius, radius]^3. The
module holds buffers only, all of them in the state dict, so that a resumed run skips the same samples.
When to update is the caller's decision.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from renderers.config import OccupancyConfig

CELLS_PER_CHUNK = 2**17  # bounds the memory of an update


class OccupancyGrid(nn.Module):
    """Occupied everywhere until the first update."""

    def __init__(self, config: OccupancyConfig) -> None:
        super().__init__()
        self.config = config
        shape = (config.resolution,) * 3
        self.register_buffer("density", torch.zeros(shape))
        self.register_buffer("binary", torch.ones(shape, dtype=torch.bool))

    @torch.no_grad()
    def update(self, density: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]], generator: torch.Generator) -> None:
        """Sample the density once in every cell, at a random place, and mark the occupied cells.

        The threshold is lowered to the mean density while that is below it, so that a faint scene is
        not thrown away as a whole. A single sample can miss the part of a cell that is dense, so the
        neighbours of a dense cell count as occupied too.
        """
        resolution, device = self.config.resolution, self.density.device
        axis = torch.arange(resolution, device=device)
        cells = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(-1, 3)
        jitter = torch.rand(cells.shape, generator=generator, device=generator.device).to(device)
        points = ((cells + jitter) / resolution * 2 - 1) * self.config.radius
        sampled = torch.cat([density(chunk).float() for chunk in points.split(CELLS_PER_CHUNK)])
        self.density.copy_(torch.maximum(self.density * self.config.decay, sampled.view_as(self.density)))
        dense = self.density > self.density.mean().clamp(max=self.config.threshold)
        self.binary.copy_(F.max_pool3d(dense[None].float(), kernel_size=3, stride=1, padding=1)[0] > 0)

    def occupied(self, points: Float[Tensor, "*n 3"]) -> Bool[Tensor, "*n"]:
        """Whether points, in scene units, lie in occupied cells; those outside count by the nearest cell."""
        resolution = self.config.resolution
        cells = (points * self.cells_per_unit + 0.5 * resolution).long().clamp(0, resolution - 1)
        x, y, z = cells.unbind(-1)
        return self.binary[x, y, z]

    @property
    def cells_per_unit(self) -> float:
        """Cells along an axis per scene unit."""
        return 0.5 * self.config.resolution / self.config.radius

    @property
    def occupied_fraction(self) -> Float[Tensor, ""]:
        """Share of the cells that are occupied."""
        return self.binary.float().mean()
