"""Rasterisation: against brute force, between backends, and perspective."""

from __future__ import annotations

import importlib.util
import logging

import pytest
import torch

from renderers import rasterizer_backends
from renderers.cameras import camera_rays, orbit_cameras, turntable_cameras
from renderers.config import RasterizerConfig
from renderers.rasterizer import Rasterizer, ScreenVertices, barycentrics, project
from tests.renderers.meshes import icosphere, triangle_soup

CAMERAS = turntable_cameras(2, elevation_deg=20, distance=1.4, fovy_deg=50)
HEIGHT, WIDTH = 24, 36


def first_hits(vertices, faces, cameras, height, width):
    """Nearest face along every pixel's ray (Möller and Trumbore 1997), -1 for none, in float64; and its distance."""
    rays_o, rays_d = (rays.reshape(-1, 1, 3).double() for rays in camera_rays(cameras, height, width))
    a, b, c = vertices.double()[faces].unbind(1)
    normal = torch.linalg.cross(rays_d, (c - a)[None].expand(len(rays_d), -1, -1))
    determinant = (normal * (b - a)).sum(-1)
    offset = rays_o - a
    u = (normal * offset).sum(-1) / determinant
    across = torch.linalg.cross(offset, (b - a)[None].expand_as(offset))
    v = (across * rays_d).sum(-1) / determinant
    t = (across * (c - a)).sum(-1) / determinant
    hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
    t, face = torch.where(hit, t, torch.inf).min(-1)
    return torch.where(t.isfinite(), face, -1).view(-1, height, width), t.view(-1, height, width)


def rasterize(backend, vertices, faces, cameras=CAMERAS, height=HEIGHT, width=WIDTH):
    screen = project(vertices, cameras, height, width)
    return Rasterizer(RasterizerConfig(backend)).visible_faces(screen, faces, height, width)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_every_pixel_shows_the_first_face_along_its_ray(backend):
    vertices, faces = triangle_soup(150)
    screen = project(vertices, CAMERAS, HEIGHT, WIDTH)
    for view in range(2):
        kept = faces[screen.faces_in_front(view, faces)]  # what reaches behind the camera isn't drawn
        assert len(kept) > 0
        expected, _ = first_hits(vertices, kept, CAMERAS[view : view + 1], HEIGHT, WIDTH)
        got = rasterize(backend, vertices, kept, CAMERAS[view : view + 1])
        assert torch.equal(got, expected)


def test_projection_agrees_with_the_rays():
    """A point on the ray through a pixel's centre lands on that centre."""
    rays_o, rays_d = camera_rays(CAMERAS, HEIGHT, WIDTH)
    for row, column in ((0, 0), (5, 30), (23, 35)):
        points = (rays_o + 1.7 * rays_d)[:, row, column]
        screen = project(points, CAMERAS, HEIGHT, WIDTH)
        for view in range(2):
            expected = torch.tensor([column + 0.5, row + 0.5])
            torch.testing.assert_close(screen.xy[view, view], expected, atol=1e-4, rtol=0)
            along = 1.7 * -(rays_d[view, row, column] @ CAMERAS.c2w[view, :3, 2])
            torch.testing.assert_close(screen.depth[view, view], along)


@pytest.mark.parametrize("seed", range(3))
def test_backends_agree(seed):
    meshes = (triangle_soup(400, seed), triangle_soup(40, seed, size=3.0), icosphere(3, 0.3 + 0.2 * seed))
    for vertices, faces in meshes:
        assert torch.equal(rasterize("numba", vertices, faces), rasterize("torch", vertices, faces))


def test_chunks_change_nothing(monkeypatch):
    vertices, faces = triangle_soup(100, size=1.5)
    whole = rasterize("torch", vertices, faces)
    monkeypatch.setattr(rasterizer_backends, "CANDIDATES_PER_CHUNK", 50)
    assert torch.equal(rasterize("torch", vertices, faces), whole)


def test_bands_change_nothing():
    vertices, faces = triangle_soup(100)
    threads = torch.get_num_threads()
    images = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            images.append(rasterize("numba", vertices, faces))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*images)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_a_square_of_two_triangles_has_no_seam_and_no_overlap(backend):
    """Pixel centres that lie on the shared diagonal belong to the face with the smaller number."""
    xy = torch.tensor([[0.0, 0], [8, 0], [8, 8], [0, 8]])
    screen = ScreenVertices(xy[None], torch.ones(1, 4))
    visible = Rasterizer(RasterizerConfig(backend)).visible_faces(screen, torch.tensor([[0, 1, 2], [0, 2, 3]]), 8, 10)[
        0
    ]
    assert (visible[:, 8:] == -1).all()
    row, column = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    assert torch.equal(visible[:, :8], (row > column).long())


def test_barycentrics_are_perspective_correct():
    vertices, faces = triangle_soup(30, size=1.0)
    screen = project(vertices, CAMERAS, HEIGHT, WIDTH)
    fragments = Rasterizer().fragments(screen, faces, HEIGHT, WIDTH)
    assert len(fragments.pixels) > 100
    torch.testing.assert_close(fragments.barycentrics.sum(-1), torch.ones(len(fragments.pixels)))
    rays_o, rays_d = (rays.reshape(-1, 3)[fragments.pixels] for rays in camera_rays(CAMERAS, HEIGHT, WIDTH))
    offset = fragments.interpolate(vertices, faces) - rays_o
    torch.testing.assert_close(torch.linalg.cross(offset, rays_d), torch.zeros_like(offset), atol=1e-4, rtol=0)


def test_gradients_of_barycentrics_equal_finite_differences():
    generator = torch.Generator().manual_seed(0)
    xy = torch.rand(5, 3, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    depth = (torch.rand(5, 3, dtype=torch.float64, generator=generator) + 0.5).requires_grad_()
    points = torch.rand(5, 2, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda xy, depth: barycentrics(xy, depth, points), (xy, depth))


def test_a_face_without_area_has_finite_gradients():
    xy = torch.tensor([[[0.0, 0], [1, 1], [2, 2]]], requires_grad=True)
    barycentrics(xy, torch.ones(1, 3), torch.tensor([[1.0, 1.0]])).sum().backward()
    assert xy.grad.isfinite().all()


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_a_mesh_behind_the_camera_or_without_faces_leaves_the_image_empty(backend):
    vertices, faces = icosphere(1)
    behind = vertices + torch.tensor([0.0, 0, 5])
    camera = orbit_cameras(*(torch.tensor([value]) for value in (0.0, 0.0, 1.5, 50.0)))
    for shape in ((behind, faces), (vertices, faces[:0])):
        assert (rasterize(backend, *shape, camera) == -1).all()


def test_auto_says_which_backend_runs(caplog):
    with caplog.at_level(logging.INFO):
        chosen = Rasterizer()
        assert chosen.backend_on(torch.device("cpu")) == "numba"
        chosen.backend_on(torch.device("cpu"))
    assert [record.message for record in caplog.records] == ["rasterizer: backend numba on cpu (configured: auto)"]


def test_bad_backends_are_errors():
    with pytest.raises(ValueError, match="'numba' runs on cpu, not on cuda"):
        Rasterizer(RasterizerConfig("numba")).backend_on(torch.device("cuda"))


@pytest.mark.parametrize("backend", ["nvdiffrast", "kaolin"])
def test_a_missing_backend_fails_at_construction(backend, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=f"rasterizer.backend: '{backend}' is not installed"):
        Rasterizer(RasterizerConfig(backend))
    assert Rasterizer().backend_on(torch.device("cuda")) == "torch"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["torch", "nvdiffrast", "kaolin"])
def test_cuda_backends_agree_with_the_reference(backend):
    if backend != "torch":
        pytest.importorskip(backend)
    vertices, faces = icosphere(4)
    expected = rasterize("torch", vertices, faces, height=128, width=160)
    got = rasterize(backend, vertices.cuda(), faces.cuda(), CAMERAS.to("cuda"), 128, 160).cpu()
    assert (got == expected).float().mean() > 0.999  # roundings decide on the faces' borders
