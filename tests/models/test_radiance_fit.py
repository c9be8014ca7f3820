from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models.config import HashGridConfig, RadianceFieldConfig
from models.fields import RadianceField
from models.radiance_fit import DENSITY, INSET, SOFTNESS, KnownPoints, density_of_distance, fit_radiance_field

GRID = HashGridConfig(levels=4, log2_hashmap_size=12, base_resolution=8, finest_resolution=32, backend="torch")
SMALL = RadianceFieldConfig(radius=2.0, grid=GRID, hidden=(16,))


def distance(points: torch.Tensor) -> torch.Tensor:
    """A ball of radius 0.6, to the left of the centre."""
    return torch.linalg.vector_norm(points + torch.tensor([0.5, 0.0, 0.0]), dim=-1) - 0.6


def color(points: torch.Tensor) -> torch.Tensor:
    """Red above, blue below."""
    return torch.where(points[:, 1:2] > 0, torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))


def surface() -> torch.Tensor:
    directions = torch.randn(2000, 3, generator=torch.Generator().manual_seed(5))
    return 0.6 * torch.nn.functional.normalize(directions, dim=-1) - torch.tensor([0.5, 0.0, 0.0])


def known() -> KnownPoints:
    """Points near the ball and in the whole cube."""
    draws = torch.Generator().manual_seed(3)
    near = surface().repeat(8, 1) + 0.1 * torch.randn(16_000, 3, generator=draws)
    points = torch.cat([near, 4 * torch.rand(16_000, 3, generator=draws) - 2])
    distances = distance(points)
    return KnownPoints(points, distances, color(points), (distances.abs() < 0.2).float())


def fitted(iterations: int = 60) -> tuple[RadianceField, list[float]]:
    field = RadianceField(SMALL, torch.Generator().manual_seed(0))
    losses = fit_radiance_field(
        field,
        known(),
        iterations=iterations,
        points=2048,
        generator=torch.Generator().manual_seed(1),
    )
    return field, losses


def test_density_of_distance() -> None:
    found = density_of_distance(torch.tensor([-1.0, -INSET * SOFTNESS * 2.0, 1.0]), radius=2.0)
    torch.testing.assert_close(found, torch.tensor([DENSITY / 2, DENSITY / 4, 0.0]))


def test_density_and_colors_are_those_of_the_mesh() -> None:
    field, losses = fitted()
    assert losses[-1] < 0.2 * losses[0]
    points = 2 * (2 * torch.rand(4000, 3, generator=torch.Generator().manual_seed(2)) - 1)
    with torch.no_grad():
        samples = field(points)
        on_surface = field(surface())
    truth = distance(points)
    dense = samples.sigmas > DENSITY / 4
    clear = truth.abs() > 0.15
    assert (dense == (truth < 0))[clear].float().mean() > 0.99
    clear = surface()[:, 1].abs() > 0.15
    assert (on_surface.rgb - color(surface()))[clear].abs().mean() < 0.1


def test_without_distances_densities_stay_about_where_they_are() -> None:
    field = RadianceField(SMALL, torch.Generator().manual_seed(0))
    points = known()
    with torch.no_grad():
        before = field(points.points).sigmas
    free = replace(points, distances=None)
    fit_radiance_field(field, free, iterations=60, points=2048, generator=torch.Generator().manual_seed(1))
    near = points.colored > 0
    with torch.no_grad():
        after = field(points.points)
    assert (after.rgb - points.colors)[near].abs().mean() < 0.1
    assert torch.corrcoef(torch.stack([before, after.sigmas]))[0, 1] > 0.9


def test_the_fit_is_reproducible() -> None:
    first, second = (fitted(iterations=3)[1] for _ in range(2))
    assert first == second


@pytest.mark.parametrize("radius", [0.5, 4.0])
def test_opacity_does_not_depend_on_the_scale(radius: float) -> None:
    """The light that passes a tenth of the radius of matter is the same in scenes of all sizes."""
    density = density_of_distance(torch.tensor([-radius]), radius)
    assert torch.exp(-density * 0.1 * radius).item() == pytest.approx(0.0067, rel=0.02)
