from __future__ import annotations

import pytest
import torch

from renderers.texture_baking import unwrap
from renderers.uv_layout import uv_layout

SQUARE = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
TWO = torch.tensor([[0, 1, 2], [0, 2, 3]])


def grid(cells: int, scale: float = 1.0, shift: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Corners of a plane of squares, and coordinates that lay it into the texture without distortion."""
    axis = torch.arange(cells) / cells
    origins = torch.cartesian_prod(axis, axis)
    square = SQUARE[TWO][:, :, :2] / cells
    uv = (origins[:, None, None] + square).flatten(0, 1)
    return torch.nn.functional.pad(uv, (0, 1)), uv * scale + shift


@pytest.mark.parametrize("cells", [1, 3, 32])
def test_a_plane_laid_out_is_usable(cells: int) -> None:
    """32 squares of 8 texels: their diagonals run through the centres of an eighth of all texels."""
    layout = uv_layout(*grid(cells), texture_size=256)
    assert layout.problem is None
    assert (layout.missing, layout.outside, layout.flat, layout.overlap) == (0, 0, 0, 0)


def test_an_atlas_of_xatlas_is_usable() -> None:
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=3)
    vertices, faces = torch.from_numpy(ball.vertices).float(), torch.from_numpy(ball.faces).long()
    atlas = unwrap(vertices, faces, 256, 2)
    layout = uv_layout(vertices[faces], atlas.uv[atlas.faces], texture_size=256)
    assert layout.problem is None and layout.overlap < 1e-3


def test_two_parts_on_one_place_overlap() -> None:
    corners, uv = grid(4)
    layout = uv_layout(torch.cat([corners, corners + 2]), torch.cat([uv, uv]), 256)
    assert layout.overlap > 0.9 and "belong to more than one face" in layout.problem


def test_a_mirrored_half_overlaps_by_its_share() -> None:
    corners, uv = grid(4)
    right = corners[..., 0].mean(-1) > 0.5
    folded = uv.clone()
    folded[right, :, 0] = 1 - folded[right, :, 0]
    assert uv_layout(corners, folded, 256).overlap == pytest.approx(1.0, abs=0.05)
    small = uv * 0.5
    small[0] = small[5]
    layout = uv_layout(corners, small, 256)
    assert layout.overlap == pytest.approx(1 / 31, abs=0.005)


def test_outside() -> None:
    layout = uv_layout(*grid(4, scale=3.0, shift=-0.5))
    assert layout.outside == pytest.approx(1.5, abs=1e-6) and "outside [0, 1]" in layout.problem
    assert uv_layout(*grid(4, scale=1 + 1e-6)).problem is None


def test_flat_faces() -> None:
    corners, uv = grid(4)
    uv[:4] = uv[:4, :1]
    layout = uv_layout(corners, uv, 256)
    assert layout.flat == pytest.approx(4 / 32) and "no area in the texture" in layout.problem
    # Faces without an area need none.
    needless = corners[:1].clone()
    needless[:] = needless[:, :1]
    assert uv_layout(torch.cat([grid(4)[0], needless]), torch.cat([grid(4)[1], uv[:1]])).problem is None


def test_missing() -> None:
    corners, uv = grid(2)
    uv[3] = torch.nan
    layout = uv_layout(corners, uv)
    assert layout.missing == 1 / 8 and "have no texture coordinates" in layout.problem
    assert uv_layout(corners, torch.full_like(uv, torch.nan)).missing == 1
