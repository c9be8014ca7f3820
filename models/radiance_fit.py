"""Fit a radiance field to a signed distance and to colours: how the stage nerf starts from a mesh.

The density that is fitted rises from 0 outside to ``DENSITY / radius`` inside within about ``SOFTNESS`` of the radius:
sigma(d) = DENSITY / radius * sigmoid(-d / (SOFTNESS * radius)), d being the signed distance, negative inside. It is
opaque to the eye, yet soft enough for gradients to move it. What is compared is not the density but the opacity of
a ray's step through it, alpha = 1 - exp(-sigma * step): empty space counts as much as matter.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from models.fields import RadianceField

DENSITY = 50.0  # of the inside, times the radius: 0.1 radius of it lets 1% of the light through
SOFTNESS = 0.01  # of the radius
STEP = 0.02  # of the radius: a ray's step
NEAR = 0.05  # of the radius: the standard deviation of points near the surface
RATE = 1e-2  # Adam's

Distance = Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]]
Color = Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n 3"]]


def density_of_distance(distance: Float[Tensor, "n"], radius: float) -> Float[Tensor, "n"]:
    """Density per scene unit at signed distances, in scene units."""
    return DENSITY / radius * torch.sigmoid(-distance / (SOFTNESS * radius))


def fit_radiance_field(
    field: RadianceField,
    distance: Distance,
    color: Color | None,
    surface: Float[Tensor, "m 3"],
    *,
    iterations: int,
    points: int,
    generator: torch.Generator,
) -> list[float]:
    """Train a field on points near the surface and in its whole cube; returns the loss of every iteration.

    Args:
        distance: signed distance at points, in scene units.
        color: sRGB in [0, 1] at points, that of the nearest place on the surface; None leaves colours alone.
        surface: points on the surface, to draw from.
        points: of an iteration.
        generator: draws the points, on its device.
    """
    radius, device = field.config.radius, next(field.parameters()).device
    optimizer = torch.optim.Adam(field.parameters(), lr=RATE, betas=(0.9, 0.99), eps=1e-15)
    losses = []
    for _ in range(iterations):
        drawn = torch.randint(len(surface), (points // 2,), generator=generator)
        near = surface[drawn] + NEAR * radius * torch.randn(points // 2, 3, generator=generator)
        everywhere = radius * (2 * torch.rand(points - points // 2, 3, generator=generator) - 1)
        places = torch.cat([near, everywhere]).clamp(-radius, radius)
        wanted_distance = distance(places).to(device)
        wanted = _opacity(density_of_distance(wanted_distance, radius), radius)
        samples = field(places.to(device))
        loss = (_opacity(samples.sigmas, radius) - wanted).square().mean()
        if color is not None:
            seen = wanted_distance.abs() < 2 * NEAR * radius
            loss = loss + (samples.rgb[seen] - color(places[seen.cpu()]).to(device)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _opacity(sigmas: Float[Tensor, "n"], radius: float) -> Float[Tensor, "n"]:
    return 1 - torch.exp(-sigmas * STEP * radius)
