"""The rasteriser's Triton kernel against the reference, on a GPU or under Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from renderers.cameras import turntable_cameras
from renderers.config import RasterizerConfig
from renderers.rasterizer import Rasterizer, ScreenVertices, project
from renderers.rasterizer_backends import ScreenMesh, visible_faces_reference, visible_faces_triton
from tests.renderers.meshes import icosphere, triangle_soup

pytest.importorskip("triton")
HEIGHT, WIDTH = 24, 36


def screen_mesh(vertices, faces, device) -> ScreenMesh:
    """As one camera sees it, without what reaches behind the camera."""
    screen = project(vertices, turntable_cameras(1, elevation_deg=20, distance=1.4, fovy_deg=50), HEIGHT, WIDTH)
    faces = faces[screen.faces_in_front(0, faces)]
    return ScreenMesh(screen.xy[0].to(device), screen.depth[0].to(device), faces.to(device), HEIGHT, WIDTH)


@pytest.mark.parametrize(
    "mesh",
    [triangle_soup(60), triangle_soup(12, size=3.0), icosphere(2, 0.5)],
    ids=["faces that cross", "faces larger than the image", "a sphere"],
)
def test_the_same_faces_are_visible(mesh, triton_device):
    view = screen_mesh(*mesh, triton_device)
    expected = visible_faces_reference(view)
    assert torch.equal(visible_faces_triton(view), expected)
    assert expected.unique().numel() > 5


def test_pixels_on_a_shared_edge_belong_to_the_smaller_number(triton_device):
    xy = torch.tensor([[0.0, 0], [8, 0], [8, 8], [0, 8]], device=triton_device)
    screen = ScreenVertices(xy[None], torch.ones(1, 4, device=triton_device))
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]], device=triton_device)
    visible = Rasterizer(RasterizerConfig("triton")).visible_faces(screen, faces, 8, 10)[0].cpu()
    row, column = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    assert torch.equal(visible[:, :8], (row > column).long()) and (visible[:, 8:] == -1).all()


def test_faces_seen_edge_on_outside_and_none_at_all(triton_device):
    xy = torch.tensor([[1.0, 1], [5, 5], [9, 9], [-5, -5], [-1, -5], [-5, -1], [20, 3], [30, 3], [20, 9]])
    faces = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    view = ScreenMesh(xy.to(triton_device), torch.ones(9, device=triton_device), faces.to(triton_device), 8, 10)
    nothing = ScreenMesh(view.xy, view.depth, view.faces[:0], 8, 10)
    assert (visible_faces_triton(view) == -1).all() and (visible_faces_triton(nothing) == -1).all()
