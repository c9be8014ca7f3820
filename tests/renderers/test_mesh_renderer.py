"""Mesh renderer: closed forms of a ball, agreement with the volume renderer, gradients, empty views."""

from __future__ import annotations

import pytest
import torch

from models.fields import FieldSamples
from models.mesh_geometry import mesh_edges
from renderers.cameras import camera_rays, turntable_cameras
from renderers.config import OccupancyConfig, VolumeRendererConfig
from renderers.mesh_renderer import MeshRenderer, normal_colors
from renderers.ray_marching import OccupancyGrid
from renderers.volume import VolumeRenderer
from tests.renderers.meshes import icosphere

CAMERAS = turntable_cameras(2, elevation_deg=15, distance=2.5, fovy_deg=50)
SIZE = 48
BLACK = torch.zeros(2, 3)


def position_colors(points):
    return points.positions / 2 + 0.5


def render(vertices, faces, shade=position_colors, background=BLACK, **options):
    return MeshRenderer().render(vertices, faces, shade, CAMERAS, SIZE, SIZE, background, **options)


def ball_hits(radius):
    """Distances, points and a mask of the rays that meet a ball around the origin."""
    rays_o, rays_d = camera_rays(CAMERAS, SIZE, SIZE)
    nearest = -(rays_o * rays_d).sum(-1, keepdim=True)
    half = radius**2 - (rays_o + nearest * rays_d).square().sum(-1, keepdim=True)
    distance = nearest - half.clamp(min=0).sqrt()
    return distance, rays_o + distance * rays_d, half > 0


def test_a_ball_has_its_distance_normals_and_colours():
    output = render(*icosphere(5))
    distance, points, hit = ball_hits(0.48)  # a little smaller: away from the antialiased outline
    inside = hit[..., 0]
    distance, points, _ = ball_hits(0.5)
    torch.testing.assert_close(output.opacity[inside], torch.ones_like(output.opacity[inside]))
    torch.testing.assert_close(output.depth[inside], distance[inside], atol=5e-3, rtol=0)
    torch.testing.assert_close(output.normal[inside], points[inside] / 0.5, atol=0.03, rtol=0)
    torch.testing.assert_close(output.rgb[inside], points[inside] / 2 + 0.5, atol=5e-3, rtol=0)
    _, _, near = ball_hits(0.53)
    outside = ~near[..., 0]
    for image in (output.opacity, output.depth, output.normal, output.rgb):
        assert (image[outside] == 0).all()


def test_it_sees_what_the_volume_renderer_sees():
    centre = torch.tensor([0.2, 0.15, -0.1])
    vertices, faces = icosphere(4, 0.4)
    output = render(vertices + centre, faces, background=torch.ones(2, 3))

    def field(points):
        return FieldSamples(1e3 * ((points - centre).norm(dim=-1) < 0.4), points / 2 + 0.5)

    volume = VolumeRenderer(VolumeRendererConfig(samples_per_ray=200))
    expected = volume.render(field, OccupancyGrid(OccupancyConfig(resolution=8)), CAMERAS, SIZE, SIZE, torch.ones(2, 3))
    assert (output.opacity - expected.opacity).abs().mean() < 0.01
    assert (output.rgb - expected.rgb).abs().mean() < 0.01


def test_normals_mode_shows_unit_normals():
    output = render(*icosphere(4), shade=normal_colors)
    solid = output.opacity[..., 0] == 1
    normals = output.rgb[solid] * 2 - 1
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(len(normals)), atol=1e-4, rtol=0)
    front = output.rgb[0, SIZE // 2, SIZE // 2]  # the camera at azimuth 0 looks at +z, from a little above
    assert front[2] > 0.9 and front[1] > 0.5
    assert output.rgb[1, SIZE // 2, SIZE // 2, 2] < 0.1  # the one opposite sees the back


def test_background_shows_where_the_mesh_is_not():
    background = torch.rand(2, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    output = render(*icosphere(3), background=background)
    output.rgb.sum().backward()
    torch.testing.assert_close(background.grad, (1 - output.opacity).expand_as(background))
    empty = output.opacity[..., 0] == 0
    assert torch.equal(output.rgb[empty], background.detach()[empty])


def test_colours_interpolate_vertex_values():
    vertices, faces = icosphere(3)
    colors = torch.rand(len(vertices), 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    output = render(vertices, faces, shade=lambda points: points.interpolate(colors))
    output.rgb.sum().backward()
    # Barycentric weights of a pixel sum to 1: what the colours receive is what the image shows of the mesh.
    torch.testing.assert_close(colors.grad.sum(0), output.opacity.sum().expand(3))


def test_the_gradient_of_a_smooth_interior_equals_finite_differences():
    """A colour that is a function of the place doesn't change inside when the mesh slides under it."""
    vertices, faces = icosphere(4)
    mask = ball_hits(0.4)[2].float()

    def value(shift):
        output = render(vertices + shift * torch.tensor([0.0, 1.0, 0.0]), faces)
        return (output.depth * mask).sum()

    shift = torch.zeros((), requires_grad=True)
    value(shift).backward()
    with torch.no_grad():
        expected = (value(torch.tensor(0.01)) - value(torch.tensor(-0.01))) / 0.02
    assert shift.grad.item() == pytest.approx(expected.item(), rel=0.02)


def test_edges_of_the_callers_change_nothing():
    vertices, faces = icosphere(3)
    assert torch.equal(render(vertices, faces, edges=mesh_edges(faces)).rgb, render(vertices, faces).rgb)


def test_a_view_that_misses_the_mesh_shows_the_background():
    vertices, faces = icosphere(2)
    for shape in ((vertices + 100, faces), (vertices, faces[:0])):
        points = shape[0].clone().requires_grad_()
        output = render(points, shape[1], background=torch.full((2, 3), 0.3))
        torch.testing.assert_close(output.rgb, torch.full_like(output.rgb, 0.3))
        output.rgb.sum().backward()  # nothing is seen, but still a graph: the training step must not crash
        assert (points.grad == 0).all()


def test_gradients_are_finite_from_inside_the_mesh():
    vertices, faces = icosphere(3, 4.0)
    vertices.requires_grad_()
    output = render(vertices, faces, shade=normal_colors)
    assert (output.opacity > 0.99).all()
    (output.rgb.sum() + output.depth.sum()).backward()
    assert vertices.grad.isfinite().all()


def test_background_of_another_shape_is_an_error():
    with pytest.raises(ValueError, match=r"background: shape \[2, 9, 3\] is neither \[2, 3\].* nor \[2, 48, 48, 3\]"):
        render(*icosphere(1), background=torch.ones(2, 9, 3))


def test_edges_with_three_faces_are_an_error():
    faces = torch.tensor([[0, 1, 2], [1, 0, 3], [0, 1, 4]])
    with pytest.raises(ValueError, match="faces: 1 edges belong to more than two faces"):
        render(torch.rand(5, 3), faces)
