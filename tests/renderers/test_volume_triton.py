"""Ray marching and compositing by Triton kernels against the reference, on a GPU or under Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from models.fields import FieldSamples
from renderers.cameras import camera_rays, turntable_cameras
from renderers.config import OccupancyConfig, VolumeRendererConfig
from renderers.ray_marching import (
    OccupancyGrid,
    RaySegments,
    intersect_ball,
    intersect_box,
    march_reference,
    march_triton,
)
from renderers.volume import VolumeRenderer, accumulate, render_weights

pytest.importorskip("triton")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def occupancy_of(radius: float, device, resolution=16) -> OccupancyGrid:
    """Random cells of a cube, a third of them occupied."""
    grid = OccupancyGrid(OccupancyConfig(radius=radius, resolution=resolution))
    grid.binary.copy_(torch.rand(grid.binary.shape, generator=generator()) < 0.3)
    return grid.to(device)


def segments_of(size, device, radius=1.0, step=0.03, slots=130, intersect=intersect_box) -> RaySegments:
    cameras = turntable_cameras(3, elevation_deg=20, distance=2.5 * radius, fovy_deg=60)
    rays_o, rays_d = (rays.reshape(-1, 3).to(device) for rays in camera_rays(cameras, size, size))
    first_step = 1 - torch.rand(len(rays_o), generator=generator(2)).to(device)
    return RaySegments(rays_o, rays_d, *intersect(rays_o, rays_d, radius), first_step, step, slots)


@pytest.mark.parametrize(
    ("radius", "step", "slots"),
    [(1.0, 0.03, 130), (0.7, 0.1, 30), (1.0, 0.01, 350)],
    ids=["a block", "less than a block, another radius", "three blocks"],
)
def test_the_same_intervals_are_kept(radius, step, slots, triton_device):
    segments = segments_of(4, triton_device, radius, step, slots)
    occupancy = occupancy_of(radius, triton_device)
    got, expected = march_triton(segments, occupancy), march_reference(segments, occupancy)
    assert torch.equal(got.ray_indices, expected.ray_indices) and len(got.ray_indices) > 100
    assert torch.equal(got.t_starts, expected.t_starts) and torch.equal(got.t_ends, expected.t_ends)


def test_rays_that_miss_and_no_rays(triton_device):
    occupancy = occupancy_of(1.0, triton_device)
    segments = segments_of(4, triton_device, intersect=intersect_ball)
    missing = RaySegments(
        segments.rays_o, -segments.rays_d, *intersect_ball(segments.rays_o, -segments.rays_d, 1.0),
        segments.first_step, segments.step, segments.slots,
    )  # fmt: skip
    none = RaySegments(*(getattr(segments, name)[:0] for name in list(vars(segments))[:5]), 0.1, 20)
    for empty in (missing, none):
        samples = march_triton(empty, occupancy)
        assert len(samples.t_starts) == len(samples.t_ends) == len(samples.ray_indices) == 0
        assert samples.n_rays == len(empty.rays_o)


COUNTS = (3, 0, 200, 1, 128, 0)  # samples of each ray: none, less than a block of the kernels, one, more


def packed(device, scale=20.0, dtype=torch.float32):
    """Densities, starts, ends and rays of samples; values of three channels."""
    ray_indices = torch.repeat_interleave(torch.arange(len(COUNTS)), torch.tensor(COUNTS))
    n = len(ray_indices)
    t_starts = torch.arange(n) * 0.01
    t_ends = t_starts + 0.005 + 0.005 * torch.rand(n, generator=generator())
    sigmas = (torch.rand(n, generator=generator(1)) * scale).to(dtype)
    values = torch.rand(n, 3, generator=generator(2)).to(dtype)
    return tuple(tensor.to(device) for tensor in (sigmas, t_starts, t_ends, ray_indices, values))


def composited(backend, sigmas, t_starts, t_ends, ray_indices, values, upstream):
    """Weights, transmittances, colours, opacities, and gradients of a sum of all of them."""
    sigmas, values = sigmas.detach().requires_grad_(), values.detach().requires_grad_()
    weights, light = render_weights(sigmas, t_starts, t_ends, ray_indices, len(COUNTS), backend)
    rgb = accumulate(weights, values, ray_indices, len(COUNTS), backend)
    opacity = accumulate(weights, None, ray_indices, len(COUNTS), backend)
    outputs = (weights, light, rgb, opacity)
    loss = sum((output * factor).sum() for output, factor in zip(outputs, upstream, strict=True))
    return *outputs, *torch.autograd.grad(loss, (sigmas, values))


def upstream_of(device, n):
    shapes = ((n,), (n,), (len(COUNTS), 3), (len(COUNTS), 1))
    return [torch.randn(shape, generator=generator(3 + i)).to(device) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("scale", [0.01, 20.0, 1e3, 1e6], ids=["fog", "a cloud", "a wall", "steel"])
def test_values_and_gradients_equal_the_reference(scale, triton_device):
    samples = packed(triton_device, scale)
    upstream = upstream_of(triton_device, len(samples[0]))
    got, expected = (composited(backend, *samples, upstream) for backend in ("triton", "torch"))
    for value, wanted in zip(got, expected, strict=True):
        # Optical depths up to about 30 matter; their float32 sums are off by some 1e-6.
        torch.testing.assert_close(value, wanted, atol=1e-5, rtol=1e-4)
    assert got[-2].abs().max() > 1e-4 or scale == 1e6


def test_gradients_against_finite_differences(triton_device):
    sigmas, t_starts, t_ends, ray_indices, values = packed(triton_device)
    upstream = upstream_of(triton_device, len(sigmas))
    gradient = composited("triton", sigmas, t_starts, t_ends, ray_indices, values, upstream)[-2]

    def loss(sigmas):
        outputs = composited("torch", sigmas, t_starts, t_ends, ray_indices, values, upstream)[:4]
        return sum((output * factor).double().sum() for output, factor in zip(outputs, upstream, strict=True))

    step = 0.5
    for sample in (0, 2, 3, 100, 202, 203, 210):
        shift = torch.zeros_like(sigmas)
        shift[sample] = step
        numeric = (loss(sigmas + shift) - loss(sigmas - shift)) / (2 * step)
        assert gradient[sample].item() == pytest.approx(numeric.item(), abs=2e-4, rel=2e-3)


def test_a_ray_keeps_its_digits_behind_a_wall_and_small_depths_in_front_of_it(triton_device):
    sigmas = torch.tensor([1e-3, 1e4, 1.0, 1e-3, 1e-3], device=triton_device)
    starts = torch.zeros(5, device=triton_device)
    rays = torch.tensor([0, 0, 0, 1, 1], device=triton_device)
    weights, light = render_weights(sigmas, starts, starts + 1, rays, 2, "triton")
    expected = torch.exp(-torch.tensor([0, 1e-3, 1e4, 0, 1e-3], dtype=torch.float64)).float()
    torch.testing.assert_close(light.cpu(), expected, rtol=1e-6, atol=0)
    assert weights[0].item() == pytest.approx(9.995001666e-4, rel=1e-6)


@pytest.mark.parametrize("sigma", [0.0, 1e-12, 1e6])
def test_gradients_of_empty_and_saturated_rays_are_finite(sigma, triton_device):
    _, *rest = packed(triton_device)
    results = composited("triton", torch.full_like(rest[0], sigma), *rest, upstream_of(triton_device, len(rest[0])))
    assert all(result.isfinite().all() for result in results)
    assert ((results[-2] != 0).any() or sigma > 1) and (results[2][[1, 5]] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_composited_in_float32(dtype, triton_device):
    samples = packed(triton_device, dtype=dtype)
    upstream = upstream_of(triton_device, len(samples[0]))
    got, expected = (composited(backend, *samples, upstream) for backend in ("triton", "torch"))
    assert all(result.dtype == torch.float32 for result in got[:4]) and got[-1].dtype == got[-2].dtype == dtype
    for value, wanted in zip(got, expected, strict=True):
        torch.testing.assert_close(value, wanted, atol=1e-5, rtol=2 * torch.finfo(value.dtype).eps + 1e-4)


def test_no_samples_at_all(triton_device):
    nothing, no_rays = torch.zeros(0, device=triton_device), torch.zeros(0, dtype=torch.int64, device=triton_device)
    sigmas = nothing.clone().requires_grad_()
    weights, _ = render_weights(sigmas, nothing, nothing, no_rays, 3, "triton")
    sums = accumulate(weights, None, no_rays, 3, "triton")
    sums.sum().backward()
    assert torch.equal(sums.cpu(), torch.zeros(3, 1)) and sigmas.grad.shape == (0,)


def test_the_setting_names_it(triton_device):
    """A whole view, several chunks of rays, with the gradient that goes through the recomputation."""
    results = []
    for backend in ("triton", "torch"):
        config = VolumeRendererConfig(samples_per_ray=16, rays_per_chunk=40, backend=backend)
        level = torch.tensor(3.0, device=triton_device, requires_grad=True)
        cameras = turntable_cameras(1, elevation_deg=10, distance=2.0, fovy_deg=50).to(triton_device)
        output = VolumeRenderer(config).render(
            lambda points, level=level: FieldSamples(level * points.norm(dim=-1), points * 0.5 + 0.5),
            occupancy_of(1.0, triton_device), cameras, 8, 8, torch.ones(1, 3, device=triton_device),
            generator=generator(4),
        )  # fmt: skip
        output.rgb.sum().backward()
        results.append((output.rgb.detach(), output.opacity.detach(), output.weights.detach(), level.grad))
    for value, wanted in zip(*results, strict=True):
        torch.testing.assert_close(value, wanted, atol=1e-5, rtol=1e-4)
    assert results[0][1].max() > 0.1
