"""The Triton kernels beside the same thing in plain PyTorch, at the sizes of a run: equal, and how fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import trimesh
from torch import Tensor

from benchmarks.gpu.report import Report
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.timing import median_ms
from models.hash_grid import encode_reference, hash_grid_layout
from renderers.cameras import camera_rays, turntable_cameras
from renderers.config import OccupancyConfig
from renderers.rasterizer import project
from renderers.rasterizer_backends import VISIBLE_FACES, ScreenMesh
from renderers.ray_marching import (
    OccupancyGrid,
    PackedSamples,
    RaySegments,
    intersect_ball,
    march_reference,
    march_triton,
)
from renderers.volume import accumulate, render_weights

BACKENDS = ("triton", "torch")


@dataclass(frozen=True)
class Comparison:
    """A thing that both compute."""

    name: str
    run: Callable[[str], tuple[Tensor, ...]]  # by a backend
    outputs: tuple[str, ...]
    tolerance: float  # of the norm of the difference, relative to the norm, or of the share of integers that differ


def comparisons(sizes: Sizes, device: torch.device, points: int) -> Iterator[Comparison]:
    """All things, each with inputs of its own."""
    yield hash_grid(sizes, device, points)
    segments, occupancy = rays(sizes, device)
    # Comparisons of floats at the borders of cells could be decided otherwise by a fused multiply-add; none is used.
    yield Comparison(
        "ray marching",
        lambda backend: _tensors({"triton": march_triton, "torch": march_reference}[backend](segments, occupancy)),
        ("starts", "ends", "rays"),
        tolerance=0.0,
    )
    yield compositing(march_reference(segments, occupancy), device)
    view = sphere(sizes, device)
    yield Comparison(
        "rasteriser",
        lambda backend: (VISIBLE_FACES[backend](view),),
        ("visible faces",),
        tolerance=1e-4,  # the reference's sums of three areas may be in another order
    )


def hash_grid(sizes: Sizes, device: torch.device, count: int) -> Comparison:
    """Features; gradients of positions and table."""
    layout = hash_grid_layout(sizes.grid)
    positions = _random(count, 3, device=device, seed=0).requires_grad_()
    table = (2 * _random(layout.entries, layout.features, device=device, seed=1) - 1).requires_grad_()
    upstream = 2 * _random(count, len(layout.scales) * layout.features, device=device, seed=2) - 1

    def run(backend: str) -> tuple[Tensor, ...]:
        if backend == "triton":
            from models.hash_grid_triton import TritonEncode

            features = TritonEncode.apply(positions, table, layout)
        else:
            features = encode_reference(positions, table, layout)
        return features.detach(), *torch.autograd.grad(features, (positions, table), upstream)

    return Comparison("hash grid", run, ("features", "position gradient", "table gradient"), tolerance=1e-4)


def rays(sizes: Sizes, device: torch.device) -> tuple[RaySegments, OccupancyGrid]:
    """One view of a ball of half the radius, with jitter."""
    cameras = turntable_cameras(1, elevation_deg=20, distance=2.0, fovy_deg=50).to(device)
    rays_o, rays_d = (each.reshape(-1, 3).contiguous() for each in camera_rays(cameras, sizes.image, sizes.image))
    occupancy = OccupancyGrid(OccupancyConfig()).to(device)
    occupancy.update(lambda points: 50.0 * (points.norm(dim=-1) < 0.5), torch.Generator().manual_seed(0))
    first_step = 1 - _random(len(rays_o), device=device, seed=3)
    step = 2 / sizes.samples
    return (
        RaySegments(rays_o, rays_d, *intersect_ball(rays_o, rays_d, 1.0), first_step, step, sizes.samples + 2),
        occupancy,
    )


def compositing(samples: PackedSamples, device: torch.device) -> Comparison:
    """Weights, colours and opacities; gradients of densities and colours."""
    n = len(samples.t_starts)
    sigmas = (20 * _random(n, device=device, seed=4)).requires_grad_()
    values = _random(n, 3, device=device, seed=5).requires_grad_()
    shapes = ((n,), (samples.n_rays, 3), (samples.n_rays, 1))
    upstream = [2 * _random(*shape, device=device, seed=6 + i) - 1 for i, shape in enumerate(shapes)]

    def run(backend: str) -> tuple[Tensor, ...]:
        index = (samples.ray_indices, samples.n_rays, backend)
        weights, _ = render_weights(sigmas, samples.t_starts, samples.t_ends, *index)
        outputs = (weights, accumulate(weights, values, *index), accumulate(weights, None, *index))
        return *(each.detach() for each in outputs), *torch.autograd.grad(outputs, (sigmas, values), upstream)

    names = ("weights", "colours", "opacities", "density gradient", "value gradient")
    return Comparison("compositing", run, names, tolerance=1e-4)


def sphere(sizes: Sizes, device: torch.device) -> ScreenMesh:
    """A ball of half the radius in one view, about as finely meshed as a surface of stage 2."""
    mesh = trimesh.creation.icosphere(subdivisions=sizes.subdivisions, radius=0.5)
    vertices = torch.tensor(mesh.vertices, dtype=torch.float32, device=device)
    cameras = turntable_cameras(1, elevation_deg=20, distance=1.2, fovy_deg=50).to(device)
    screen = project(vertices, cameras, sizes.image, sizes.image)
    faces = torch.tensor(mesh.faces, dtype=torch.int64, device=device)
    return ScreenMesh(screen.xy[0], screen.depth[0], faces, sizes.image, sizes.image)


def measure_parity(report: Report) -> None:
    """The greatest and the relative difference of every output."""
    for each in comparisons(report.sizes, report.device, report.sizes.checked_points):
        report.attempt(each.name, lambda each=each: compare(report, each))


def compare(report: Report, comparison: Comparison) -> None:
    """Raises AssertionError where the two differ by more than they may."""
    got, expected = (comparison.run(backend) for backend in BACKENDS)
    wrong = []
    for name, value, wanted in zip(comparison.outputs, got, expected, strict=True):
        if value.shape != wanted.shape:
            wrong.append(f"{name} has shape {list(value.shape)} instead of {list(wanted.shape)}")
            continue
        difference = (value.double() - wanted.double()).abs()
        greatest = difference.max().item() if len(difference) else 0.0
        if value.is_floating_point():
            relative = (difference.norm() / wanted.double().norm().clamp(min=1e-30)).item()
        else:  # numbers of rays and faces: the share that differs
            relative = (difference > 0).double().mean().item()
        label = f"{comparison.name}, {name}: relative difference"
        report.add(label, {"relative": relative, "greatest": greatest}, f"{relative:.1e} (greatest {greatest:.1e})")
        if not relative <= comparison.tolerance:
            wrong.append(f"{name} differs by {relative:.2e}, more than {comparison.tolerance:.0e}")
    assert not wrong, f"{comparison.name}: {'; '.join(wrong)}"


def measure_times(report: Report) -> None:
    """Milliseconds of everything with its gradients: the kernels at a run's size, and both at the size of the check."""
    sizes = report.sizes
    for each in comparisons(sizes, report.device, sizes.points):
        report.attempt(each.name, lambda each=each: time_of(report, each, "triton", sizes.points))
    for each in comparisons(sizes, report.device, sizes.checked_points):
        for backend in BACKENDS if each.name == "hash grid" else ("torch",):
            report.attempt(
                f"{each.name} {backend}",
                lambda each=each, backend=backend: time_of(report, each, backend, sizes.checked_points),
            )


def time_of(report: Report, comparison: Comparison, backend: str, points: int) -> None:
    milliseconds = median_ms(lambda: comparison.run(backend), report.device, report.sizes.repeats)
    size = f"{points:,} points" if comparison.name == "hash grid" else f"{report.sizes.image} px"
    report.add(f"{comparison.name}, {size}, {backend}, forward and backward ms", milliseconds)


def _tensors(samples: PackedSamples) -> tuple[Tensor, ...]:
    return samples.t_starts, samples.t_ends, samples.ray_indices


def _random(*shape: int, device: torch.device, seed: int, **options: Any) -> Tensor:
    """Uniform in [0, 1)."""
    return torch.rand(*shape, generator=torch.Generator(device).manual_seed(seed), device=device, **options)
