"""Radiance field of stage 1: hash grid -> small MLP -> density and colour.

Density is softplus(network + bias) with the bias of `models.density_init`; colour is sigmoid(network)
and does not depend on the view, as in ProlificDreamer's code: a colour that depends on it lets the
field paint a different picture for each camera instead of finding a shape.

The field fills the cube [-radius, radius]^3 in scene units; outside it repeats its border values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import RadianceFieldConfig
from models.density_init import density_bias
from models.hash_grid import HashGrid
from models.mlp import MLP

SURFACE_LAYER = 0.05  # half the thickness of what is seen of a surface, as a share of the radius
SURFACE_SAMPLES = 8  # through it


@dataclass(frozen=True)
class FieldSamples:
    """What a field answers at points."""

    sigmas: Float[Tensor, "n"]  # density per scene unit, >= 0
    rgb: Float[Tensor, "n 3"]  # sRGB in [0, 1]


class RadianceField(nn.Module):
    """Density, colour and normals at points in scene units."""

    def __init__(self, config: RadianceFieldConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.grid = HashGrid(config.grid, generator)
        self.mlp = MLP([self.grid.channels, *config.hidden, 4], generator)

    def _network(self, points: Float[Tensor, "n 3"], active_levels: float | None) -> Float[Tensor, "n 4"]:
        """Pre-activations: the density's, bias included, then the colour's."""
        unit = points.float() / (2 * self.config.radius) + 0.5
        outputs = self.mlp(self.grid(unit.clamp(0, 1), active_levels)).float()
        bias = density_bias(points.float(), self.config.density_init)
        return outputs + F.pad(bias[:, None], (0, 3))

    def forward(self, points: Float[Tensor, "n 3"], active_levels: float | None = None) -> FieldSamples:
        """Density and colour; ``active_levels`` as in `HashGrid.forward`."""
        outputs = self._network(points, active_levels)
        return FieldSamples(F.softplus(outputs[:, 0]), torch.sigmoid(outputs[:, 1:]))

    def density(self, points: Float[Tensor, "n 3"], active_levels: float | None = None) -> Float[Tensor, "n"]:
        return F.softplus(self._network(points, active_levels)[:, 0])

    def surface_colors(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """What views show of a surface at its points: the colours of a thin layer, composited along the inward normal.

        Views are made of the matter that light meets on its way in. The field's colour at one depth, such as that of
        a level set, may never have been seen.
        """
        depths = torch.linspace(-1, 1, SURFACE_SAMPLES, device=points.device) * SURFACE_LAYER * self.config.radius
        inwards = points[:, None] - depths[:, None] * self.normals(points)[:, None]
        samples = self(inwards.flatten(0, 1))
        absorption = samples.sigmas.view(-1, SURFACE_SAMPLES) * (depths[1] - depths[0])
        transmittance = torch.exp(absorption - absorption.cumsum(dim=1))  # of what lies before each sample
        weights = transmittance * (1 - torch.exp(-absorption)) + 1e-6  # where there is no matter: the layer's mean
        weights = weights / weights.sum(dim=1, keepdim=True)
        return (weights[..., None] * samples.rgb.view(-1, SURFACE_SAMPLES, 3)).sum(dim=1)

    def normals(self, points: Float[Tensor, "n 3"], active_levels: float | None = None) -> Float[Tensor, "n 3"]:
        """Unit normals, outward: -grad sigma normalised, zero where the density is flat.

        Finite differences are differentiable with respect to the parameters; analytic normals are
        constants, because the grid's kernels have no second derivative. Both are taken of the
        pre-activation, whose gradient points the same way and doesn't underflow in empty space.
        """
        if self.config.normals == "analytic":
            with torch.enable_grad():
                points = points.detach().requires_grad_()
                total = self._network(points, active_levels)[:, 0].sum()
                (gradient,) = torch.autograd.grad(total, points)
            return F.normalize(-gradient, dim=-1)
        steps = self.config.normal_step * torch.eye(3).to(points)
        # One at a time: all six together would take six times the memory of the field itself.
        ahead = [self._network(points + step, active_levels)[:, 0] for step in steps]
        behind = [self._network(points - step, active_levels)[:, 0] for step in steps]
        return F.normalize(torch.stack(behind, dim=-1) - torch.stack(ahead, dim=-1), dim=-1)
