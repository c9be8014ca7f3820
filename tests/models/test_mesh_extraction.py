"""Marching cubes: place, orientation and closedness of the surface."""

import math

import pytest
import torch
import trimesh

from models.mesh import extract_mesh


def blob(points, centre=(0.1, 0.2, 0.3), radius=0.4):
    """10 at the centre, 5 at the radius, falling linearly."""
    return (10 - 5 * (points - torch.tensor(centre)).norm(dim=-1) / radius).clamp(min=0)


def as_trimesh(vertices, faces):
    return trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)


def test_a_ball_comes_out_in_place_closed_and_outward():
    vertices, faces = extract_mesh(blob, radius=1.0, level=5.0, resolution=40)
    distance = (vertices - torch.tensor([0.1, 0.2, 0.3])).norm(dim=-1)
    torch.testing.assert_close(distance, torch.full_like(distance, 0.4), atol=5e-3, rtol=0)
    solid = as_trimesh(vertices, faces)
    assert solid.is_watertight
    assert solid.volume == pytest.approx(4 / 3 * math.pi * 0.4**3, rel=0.02)  # negative if turned inside out


def test_the_level_moves_the_surface():
    vertices, faces = extract_mesh(blob, radius=1.0, level=7.5, resolution=40)
    assert as_trimesh(vertices, faces).volume == pytest.approx(4 / 3 * math.pi * 0.2**3, rel=0.05)


@pytest.mark.parametrize("bounds", ["ball", "box"])
def test_a_surface_that_leaves_the_bounds_is_closed_there(bounds):
    slab = lambda points: 10 * (points[:, 1] < 0.05).float() + 0.1  # noqa: E731
    vertices, faces = extract_mesh(slab, radius=0.5, level=5.0, bounds=bounds, resolution=30)
    assert as_trimesh(vertices, faces).is_watertight
    full = 0.5**3 * (2 / 3 * math.pi if bounds == "ball" else 4)
    assert full < as_trimesh(vertices, faces).volume < 1.5 * full
    assert vertices.abs().max() <= 0.5


@pytest.mark.parametrize("level", [11.0, -1.0])
def test_an_empty_level_set_names_the_range(level):
    with pytest.raises(ValueError, match=rf"level: .* {level:g}; it lies between 0 and 9\.\d+"):
        extract_mesh(blob, radius=1.0, level=level, resolution=20)


def test_a_nan_density_is_an_error():
    with pytest.raises(ValueError, match="between nan and nan"):
        extract_mesh(lambda p: p[:, 0] * math.nan, radius=1.0, level=1.0, resolution=8)


@pytest.mark.parametrize(("options", "match"), [({"resolution": 1}, "resolution: 1"), ({"bounds": "x"}, "bounds: 'x'")])
def test_bad_arguments(options, match):
    with pytest.raises(ValueError, match=match):
        extract_mesh(blob, radius=1.0, level=1.0, **options)
