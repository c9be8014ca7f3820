"""Gradients at silhouettes equal finite differences of an image of many more samples."""

from __future__ import annotations

import pytest
import torch

from models.tetrahedra import bcc_lattice, marching_tetrahedra
from renderers.cameras import turntable_cameras
from renderers.config import MeshRendererConfig
from renderers.mesh_renderer import MeshRenderer
from renderers.rasterizer import Rasterizer, project
from tests.renderers.meshes import icosphere, join

CAMERA = turntable_cameras(1, elevation_deg=10, distance=3.0, fovy_deg=40)
SIZE = 96
FINE = 12  # samples along a pixel's side, of the image that finite differences are taken of


def transformed(vertices, parameters):
    """Moved by the first three parameters, scaled by the exponential of the fourth."""
    return vertices * parameters[3].exp() + parameters[:3]


def coarse(image):
    """Means over the samples of each pixel."""
    return torch.nn.functional.avg_pool2d(image[None, None], FINE)[0, 0]


def face_image(vertices, faces, values):
    """Values of the faces at many samples a pixel, without antialiasing."""
    screen = project(vertices, CAMERA, SIZE * FINE, SIZE * FINE)
    visible = Rasterizer().visible_faces(screen, faces, SIZE * FINE, SIZE * FINE)[0]
    return coarse(torch.where(visible >= 0, values[visible.clamp(min=0)], 0.0))


def expected_gradient(scene_of, values, statistic, step=0.02):
    """Central differences in the four parameters of a scene."""
    gradient = []
    for direction in step * torch.eye(4):
        ahead, behind = (statistic(face_image(*scene_of(d), values)) for d in (direction, -direction))
        gradient.append((ahead - behind) / (2 * step))
    return torch.stack(gradient)


def render(vertices, faces, values, **config):
    def shade(points):
        return values[points.fragments.faces][:, None].expand(-1, 3)

    renderer = MeshRenderer(MeshRendererConfig(**config))
    return renderer.render(vertices, faces, shade, CAMERA, SIZE, SIZE, torch.zeros(1, 3)).rgb[0, ..., 0]


def assert_gradient_is_right(scene_of, values, statistic, share=0.05):
    parameters = torch.zeros(4, requires_grad=True)
    statistic(render(*scene_of(parameters), values)).backward()
    expected = expected_gradient(scene_of, values, statistic)
    error = (parameters.grad - expected).norm() / expected.norm()
    assert error < share, f"{parameters.grad.tolist()} instead of {expected.tolist()}"


def area(image):
    return image.sum()


def position(image):
    """A moment that tells where things are: a coordinate that runs obliquely over the image, times the image."""
    axis = torch.linspace(-1, 1, SIZE)
    return (image * (0.8 * axis[None] + 0.6 * axis[:, None])).sum()


def noisy_ball():
    """A ball with bumps, from the lattice: its outline runs in zigzags."""
    lattice = bcc_lattice(32, 0.7)
    bumps = torch.sin(9 * lattice.vertices).prod(-1)
    sdf = lattice.vertices.norm(dim=-1) - 0.5 + 0.05 * bumps
    return marching_tetrahedra(lattice.vertices, torch.where(lattice.on_boundary, 1.0, sdf), lattice.tetrahedra)


SHAPES = {
    "320 faces": lambda: icosphere(2),
    "1280 faces": lambda: icosphere(3),
    "20480 faces": lambda: icosphere(5),
    "81920 faces": lambda: icosphere(6),
    "bumps": noisy_ball,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("statistic", [area, position])
def test_area_and_position(shape, statistic):
    vertices, faces = SHAPES[shape]()
    vertices = vertices + torch.tensor([0.113, -0.071, 0.05])
    assert_gradient_is_right(lambda p: (transformed(vertices, p), faces), torch.ones(len(faces)), statistic)


@pytest.mark.parametrize("subdivisions", [2, 4, 6])
@pytest.mark.parametrize("statistic", [area, position])
def test_occlusion(subdivisions, statistic):
    """A dark ball moves in front of a bright one that is still: only what it hides changes."""
    near, faces = icosphere(subdivisions, 0.3)
    near = near + torch.tensor([0.1, 0.05, 1.2])
    far = icosphere(3, 0.9)
    values = torch.cat([torch.full((len(faces),), 0.2), torch.ones(len(far[1]))])
    assert_gradient_is_right(lambda p: join((transformed(near, p), faces), far), values, statistic)


def test_an_open_square_has_gradients_at_its_borders():
    square = torch.tensor([[-0.5, -0.4, 0.1], [0.45, -0.5, 0], [0.5, 0.45, 0], [-0.43, 0.5, 0.1]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    assert_gradient_is_right(lambda p: (transformed(square, p), faces), torch.ones(2), area)


def test_silhouettes_become_smooth():
    """Nearer to the mean over many samples than hard silhouettes, and equal to them away from the outline."""
    vertices, faces = SHAPES["bumps"]()
    values = torch.ones(len(faces))
    exact = face_image(vertices, faces, values)
    hard, smooth = (render(vertices, faces, values, antialias=on) for on in (False, True))
    assert (smooth - exact).square().mean() < 0.2 * (hard - exact).square().mean()
    interior = (exact == 0) | (exact == 1)
    torch.testing.assert_close(smooth[interior], hard[interior], atol=0.5, rtol=0)
    assert (smooth != hard)[interior].float().mean() < 0.005
    assert smooth.min() >= -1e-5 and smooth.max() <= 1 + 1e-5


def test_a_mesh_inside_another_adds_nothing():
    outer, inner = icosphere(4, 0.6), icosphere(3, 0.59)
    both = join(outer, inner)
    alone = render(*outer, torch.ones(len(outer[1])))
    torch.testing.assert_close(render(*both, torch.ones(len(both[1]))), alone, atol=0.02, rtol=0)


def test_without_antialiasing_there_is_no_gradient_of_the_outline():
    vertices, faces = icosphere(2)
    vertices.requires_grad_()
    image = render(vertices, faces, torch.ones(len(faces)), antialias=False)
    assert not image.requires_grad or torch.autograd.grad(image.sum(), vertices)[0].abs().max() == 0
