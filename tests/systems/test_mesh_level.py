"""The density that counts as the surface: against balls whose silhouettes are known."""

from __future__ import annotations

import math

import pytest
import torch

from renderers.cameras import turntable_cameras
from renderers.config import OccupancyConfig, VolumeRendererConfig
from renderers.ray_marching import OccupancyGrid
from systems.mesh_level import RayExtremes, ray_extremes, silhouette_level

CAMERAS = turntable_cameras(2, elevation_deg=10, distance=3.0, fovy_deg=45)
SIZE = 64


def level_of(density) -> float:
    occupancy = OccupancyGrid(OccupancyConfig(resolution=8))
    return silhouette_level(ray_extremes(density, occupancy, CAMERAS, SIZE, VolumeRendererConfig(samples_per_ray=128)))


def test_a_hard_ball_is_cut_between_its_densities() -> None:
    assert 1 < level_of(lambda points: torch.where(points.norm(dim=-1) < 0.5, 50.0, 1e-4)) < 50


@pytest.mark.parametrize("strength", [3.0, 30.0])
def test_a_soft_ball_gets_the_silhouette_that_its_renders_show(strength: float) -> None:
    """sigma = strength exp(-r^2 / 2 s^2): a ray at distance b has optical depth strength s sqrt(2 pi) exp(-b^2 / 2 s^2)
    and its greatest density is strength exp(-b^2 / 2 s^2), so half opacity is reached at log 2 / (s sqrt(2 pi)),
    whatever the strength."""
    s = 0.25
    level = level_of(lambda points: strength * torch.exp(-points.square().sum(-1) / (2 * s * s)))
    expected = math.log(2) / (s * math.sqrt(2 * math.pi))
    assert level == pytest.approx(expected, rel=0.15)  # a pixel is 0.04 units: at most 15% of the density


def test_the_best_threshold_by_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    greatest = torch.rand(60, generator=generator).round(decimals=1)  # ties included
    opacity = torch.rand(60, generator=generator)

    def overlap(level: float) -> float:
        inside, opaque = greatest > level, opacity > 0.5
        return ((inside & opaque).sum() / (inside | opaque).sum()).item()

    best = max(overlap(level) for level in torch.linspace(0.001, 0.999, 999).tolist())
    assert overlap(silhouette_level(RayExtremes(greatest, opacity))) == pytest.approx(best)


def test_an_empty_scene_has_no_surface() -> None:
    with pytest.raises(ValueError, match=r"no pixel's opacity exceeds 0\.5.*the greatest is 0\.4"):
        silhouette_level(RayExtremes(torch.rand(4), torch.tensor([0.1, 0.4, 0.0, 0.2])))
