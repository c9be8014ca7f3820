"""Volume renderer: closed forms, exactness of chunks, determinism."""

import math

import pytest
import torch

from models.config import HashGridConfig, NeRFSceneConfig, RadianceFieldConfig
from models.fields import FieldSamples, NeRFScene
from renderers.cameras import camera_rays, turntable_cameras
from renderers.config import OccupancyConfig, VolumeRendererConfig
from renderers.ray_marching import OccupancyGrid
from renderers.volume import VolumeRenderer

SIZE = 16
CAMERAS = turntable_cameras(2, elevation_deg=15, distance=2.5, fovy_deg=50)
GRID = HashGridConfig(levels=4, log2_hashmap_size=10, base_resolution=4, finest_resolution=32)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_scene():
    scene = NeRFScene(NeRFSceneConfig(RadianceFieldConfig(grid=GRID, hidden=(16,))), generator(0))
    with torch.no_grad():
        scene.field.grid.table.mul_(3e3)
    return scene


def full_grid():
    return OccupancyGrid(OccupancyConfig(resolution=16))


def fog(density, colour=(0.2, 0.5, 0.9)):
    return lambda points: FieldSamples(torch.full((len(points),), density), torch.tensor(colour).expand(len(points), 3))


def render(field, background=None, seed=0, **options):
    renderer = VolumeRenderer(VolumeRendererConfig(**{"samples_per_ray": 32, **options}))
    background = torch.ones(2, 3) if background is None else background
    jitter = None if seed is None else generator(seed)
    return renderer.render(field, full_grid(), CAMERAS, SIZE, SIZE, background, jitter)


@pytest.mark.parametrize("seed", [None, 0])
def test_fog_in_a_ball_has_the_closed_form(seed):
    output = render(fog(0.8), seed=seed)
    rays_o, rays_d = camera_rays(CAMERAS, SIZE, SIZE)
    offset = (rays_o - (rays_o * rays_d).sum(-1, keepdim=True) * rays_d).norm(dim=-1, keepdim=True)
    chord = 2 * (1 - offset**2).clamp(min=0).sqrt()
    opacity = 1 - torch.exp(-0.8 * chord)
    torch.testing.assert_close(output.opacity, opacity, atol=1e-4, rtol=0)
    expected = opacity * torch.tensor([0.2, 0.5, 0.9]) + (1 - opacity) * 1.0
    torch.testing.assert_close(output.rgb, expected, atol=1e-4, rtol=0)
    assert (output.opacity == 0).any()  # some rays miss


def test_a_wall_has_its_distance_and_normal():
    def wall(points):  # opaque behind the plane z = 0.2
        return FieldSamples(1e4 * (points[:, 2] < 0.2), torch.zeros(len(points), 3))

    camera = turntable_cameras(1, elevation_deg=0, distance=2.5, fovy_deg=10)
    front = torch.tensor([0.0, 0, 1])
    renderer = VolumeRenderer(VolumeRendererConfig(samples_per_ray=400))
    output = renderer.render(
        wall, full_grid(), camera, 9, 9, torch.ones(1, 3), normals=lambda points: front.expand(len(points), 3)
    )
    torch.testing.assert_close(output.depth[0, 4, 4], torch.tensor([2.3]), atol=1e-2, rtol=0)
    torch.testing.assert_close(output.normal[0, 4, 4], front)
    torch.testing.assert_close(output.opacity[0, 4, 4], torch.ones(1))


def test_front_hides_back():
    def two_sided(points):  # red in front, green behind
        front = (points[:, 2:] > 0).float()
        rgb = torch.cat([front, 1 - front, torch.zeros_like(front)], dim=-1)
        return FieldSamples(50.0 * (points.norm(dim=-1) < 0.5), rgb)

    cameras = turntable_cameras(2, elevation_deg=0, distance=2.5, fovy_deg=40)
    output = VolumeRenderer(VolumeRendererConfig()).render(two_sided, full_grid(), cameras, 9, 9, torch.zeros(2, 3))
    torch.testing.assert_close(output.rgb[0, 4, 4], torch.tensor([1.0, 0, 0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(output.rgb[1, 4, 4], torch.tensor([0.0, 1, 0]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("chunk", [100, 256, 511])
def test_chunks_change_neither_the_image_nor_the_gradient(chunk):
    results = []
    weight = torch.randn(2, SIZE, SIZE, 3, generator=generator(4))
    for rays_per_chunk in (10_000, chunk):
        scene = make_scene()
        _, rays_d = camera_rays(CAMERAS, SIZE, SIZE)
        output = render(scene.field, scene.background(rays_d), rays_per_chunk=rays_per_chunk)
        entropy = output.weights.square().sum()  # a loss on samples, too
        ((output.rgb * weight).sum() + output.depth.mean() + entropy).backward()
        results.append((output, [parameter.grad for parameter in scene.parameters()]))
    (whole, whole_grads), (parts, parts_grads) = results
    for name in ("rgb", "opacity", "depth", "weights"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=1e-6, rtol=1e-5)
    for got, expected in zip(parts_grads, whole_grads, strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_chunks_bound_the_graph():
    """Between the passes nothing of a field's activations is held: the field runs again in backward."""
    calls = []
    scene = make_scene()

    def counted(points):
        calls.append(len(points))
        return scene.field(points)

    output = render(counted, rays_per_chunk=256)
    assert len(calls) == 2
    output.rgb.sum().backward()
    assert calls[2:] == calls[1::-1]  # the same chunks, last first


def test_without_gradient_no_samples_are_kept():
    with torch.no_grad():
        output = render(make_scene().field, rays_per_chunk=100)
    assert output.weights is None
    torch.testing.assert_close(output.rgb, render(make_scene().field).rgb.detach())


def test_weights_sum_to_the_opacity():
    output = render(make_scene().field)
    torch.testing.assert_close(output.weights.sum(), output.opacity.sum(), rtol=1e-5, atol=0)
    assert output.opacity.max() <= 1 + 1e-6


def test_jitter_is_the_generators_alone():
    field = make_scene().field
    assert torch.equal(render(field, seed=1).rgb, render(field, seed=1).rgb)
    assert not torch.equal(render(field, seed=1).rgb, render(field, seed=2).rgb)
    assert torch.equal(render(field, seed=None).rgb, render(field, seed=None).rgb)


def test_skipping_empty_space_leaves_the_image_as_it_is():
    def blob(points):
        return FieldSamples(30.0 * (points.norm(dim=-1) < 0.4), points / 2 + 0.5)

    grid = full_grid()
    before = VolumeRenderer(VolumeRendererConfig()).render(blob, grid, CAMERAS, SIZE, SIZE, torch.ones(2, 3))
    grid.update(lambda points: blob(points).sigmas, generator())
    after = VolumeRenderer(VolumeRendererConfig()).render(blob, grid, CAMERAS, SIZE, SIZE, torch.ones(2, 3))
    torch.testing.assert_close(after.rgb, before.rgb, atol=1e-6, rtol=0)
    assert grid.occupied_fraction < 0.6


@pytest.mark.parametrize("bias", [-60.0, 60.0])
def test_empty_and_saturated_scenes_have_finite_gradients(bias):
    field = make_scene().field

    def extreme(points):
        samples = field(points)
        return FieldSamples(torch.nn.functional.softplus(samples.sigmas + bias * 20), samples.rgb)

    output = render(extreme)
    (output.rgb.square().mean() + output.depth.mean()).backward()
    assert output.rgb.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in field.parameters())


def test_a_grid_with_nothing_in_it_shows_the_background():
    grid = full_grid()
    grid.binary.zero_()
    field = make_scene().field
    background = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    output = VolumeRenderer(VolumeRendererConfig()).render(field, grid, CAMERAS, 4, 4, background)
    torch.testing.assert_close(output.rgb, background[:, None, None].expand(2, 4, 4, 3))
    output.rgb.sum().backward()  # no samples, but still a graph: the training step must not crash
    assert all((parameter.grad == 0).all() for parameter in field.parameters())


def test_background_receives_the_light_that_is_left():
    background = torch.rand(2, SIZE, SIZE, 3, generator=generator()).requires_grad_()
    output = render(fog(0.5), background)
    output.rgb.sum().backward()
    torch.testing.assert_close(background.grad, (1 - output.opacity).expand_as(background))


def test_background_of_another_shape_is_an_error():
    with pytest.raises(ValueError, match=r"background: shape \[2, 8, 3\] is neither \[2, 3\].* nor \[2, 16, 16, 3\]"):
        render(fog(1.0), torch.ones(2, 8, 3))


def test_opacity_of_one_step_is_exact():
    """A single interval over the whole diameter."""
    output = render(fog(1.3), samples_per_ray=1, seed=None)
    assert output.opacity.max().item() == pytest.approx(1 - math.exp(-1.3 * 2), abs=0.02)
