"""Fit a radiance field to what is known of a mesh: signed distances and colours at points.

The density that is fitted rises from 0 outside to ``DENSITY / radius`` inside:
sigma(d) = DENSITY / radius * sigmoid(-d / (SOFTNESS * radius) - INSET), d being the signed distance, negative inside.
It is opaque to the eye, yet soft enough for gradients to move it. Light is lost in front of the place where sigma is
half of the most, so that place lies ``INSET`` steps of softness inside: the outline of views is then the mesh's.
What is compared is not the density but the opacity of
a ray's step through it, alpha = 1 - exp(-sigma * step): empty space counts as much as matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from models.fields import RadianceField

DENSITY = 50.0  # of the inside, times the radius: 0.1 radius of it lets 1% of the light through
SOFTNESS = 0.02  # of the radius
INSET = 2.0
STEP = 0.02  # of the radius: a ray's step
RATE = 1e-2  # Adam's


@dataclass(frozen=True)
class KnownPoints:
    """Points that a fit draws from, in scene units, and what the mesh is there; on the CPU."""

    points: Float[Tensor, "n 3"]
    distances: Float[Tensor, "n"] | None  # signed, in scene units; None: densities are left alone
    colors: Float[Tensor, "n 3"]  # sRGB in [0, 1], of the nearest place on the surface
    colored: Float[Tensor, "n"]  # weight of each point's colour: 1 near the surface, else 0


def density_of_distance(distance: Float[Tensor, "n"], radius: float) -> Float[Tensor, "n"]:
    """Density per scene unit at signed distances, in scene units."""
    return DENSITY / radius * torch.sigmoid(-distance / (SOFTNESS * radius) - INSET)


def fit_radiance_field(
    field: RadianceField, known: KnownPoints, *, iterations: int, points: int, generator: torch.Generator
) -> list[float]:
    """Train a field on random ones of the known points; returns the loss of every iteration.

    Args:
        points: of an iteration.
        generator: draws the points, on the CPU.
    """
    radius, device = field.config.radius, next(field.parameters()).device
    optimizer = torch.optim.Adam(field.parameters(), lr=RATE, betas=(0.9, 0.99), eps=1e-15)
    losses = []
    for _ in range(iterations):
        drawn = torch.randint(len(known.points), (points,), generator=generator)
        samples = field(known.points[drawn].to(device))
        weights = known.colored[drawn].to(device)[:, None]
        errors = weights * (samples.rgb - known.colors[drawn].to(device)).square()
        loss = errors.sum() / (3 * weights.sum()).clamp(min=1)
        if known.distances is not None:
            wanted = opacity(density_of_distance(known.distances[drawn].to(device), radius), radius)
            loss = loss + (opacity(samples.sigmas, radius) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def opacity(sigmas: Float[Tensor, "n"], radius: float) -> Float[Tensor, "n"]:
    """Of a ray's step through a density, in [0, 1)."""
    return 1 - torch.exp(-sigmas * STEP * radius)
