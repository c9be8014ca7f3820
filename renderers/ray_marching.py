"""Which parts of rays are worth evaluating: the occupancy grid, and the march of rays through it.

The occupancy grid (Müller et al. 2022, section C.1) says which cells of the scene's cube may hold anything. Each
cell remembers the largest density seen in it, decaying with every update; rays skip the cells below a threshold.
Cell (i, j, k) of axes (x, y, z) covers an equal share of [-radius, radius]^3.

A ray's way through the bounding volume is cut into intervals of one length, the first one shortened
by a random amount that differs for every ray; they cover the way without gaps, so the optical depth
of a constant density is exact with and without jitter. Intervals whose middle lies in an empty cell
of the occupancy grid are dropped.

Samples are packed: one flat list for all rays, sorted by ray and then by distance. ``t`` is the
distance from the ray's origin in scene units.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from models.backends import NUMBA, TORCH, TRITON, BackendChoice
from models.numba_threads import match_torch_threads
from models.transfer import to_device
from renderers.config import OccupancyConfig

CELLS_PER_CHUNK = 2**17  # bounds the memory of an update


class OccupancyGrid(nn.Module):
    """Occupied everywhere until the first update; when to update is the caller's decision.

    The module holds buffers only, all of them in the state dict, so that a resumed run skips the same samples.
    """

    density: Float[Tensor, "resolution resolution resolution"]  # the remembered one, per scene unit
    binary: Bool[Tensor, "resolution resolution resolution"]  # whether a cell is occupied

    def __init__(self, config: OccupancyConfig) -> None:
        super().__init__()
        self.config = config
        shape = (config.resolution,) * 3
        self.register_buffer("density", torch.zeros(shape))
        self.register_buffer("binary", torch.ones(shape, dtype=torch.bool))

    @torch.no_grad()
    def update(self, density: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]], generator: torch.Generator) -> None:
        """Sample the density once in every cell, at a random place, and mark the occupied cells.

        The threshold is lowered to the mean density while that is below it, so that a faint scene is
        not thrown away as a whole. A single sample can miss the part of a cell that is dense, so the
        neighbours of a dense cell count as occupied too.
        """
        resolution, device = self.config.resolution, self.density.device
        axis = torch.arange(resolution, device=device)
        cells = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(-1, 3)
        jitter = to_device(torch.rand(cells.shape, generator=generator, device=generator.device), device)
        points = ((cells + jitter) / resolution * 2 - 1) * self.config.radius
        sampled = torch.cat([density(chunk).float() for chunk in points.split(CELLS_PER_CHUNK)])
        self.density.copy_(torch.maximum(self.density * self.config.decay, sampled.view_as(self.density)))
        dense = self.density > self.density.mean().clamp(max=self.config.threshold)
        self.binary.copy_(F.max_pool3d(dense[None].float(), kernel_size=3, stride=1, padding=1)[0] > 0)

    def occupied(self, points: Float[Tensor, "*n 3"]) -> Bool[Tensor, "*n"]:
        """Whether points, in scene units, lie in occupied cells; those outside count by the nearest cell."""
        resolution = self.config.resolution
        cells = (points * self.cells_per_unit + 0.5 * resolution).long().clamp(0, resolution - 1)
        x, y, z = cells.unbind(-1)
        return self.binary[x, y, z]

    @property
    def cells_per_unit(self) -> float:
        """Cells along an axis per scene unit."""
        return 0.5 * self.config.resolution / self.config.radius

    @property
    def occupied_fraction(self) -> Float[Tensor, ""]:
        """Share of the cells that are occupied."""
        return self.binary.float().mean()


@dataclass(frozen=True)
class PackedSamples:
    """Intervals along rays, sorted by ray, then by distance."""

    t_starts: Float[Tensor, "n"]
    t_ends: Float[Tensor, "n"]
    ray_indices: Int[Tensor, "n"]  # int64
    n_rays: int

    def split(self, rays: int) -> list[PackedSamples]:
        """The samples of ``rays`` rays after another, whose numbers begin anew at 0; the host waits once."""
        firsts = torch.arange(0, self.n_rays + rays, rays, device=self.ray_indices.device).clamp(max=self.n_rays)
        places = torch.searchsorted(self.ray_indices, firsts).tolist()
        parts = []
        for number, (start, end) in enumerate(pairwise(places)):
            first, part = number * rays, slice(start, end)
            indices, count = self.ray_indices[part] - first, min(rays, self.n_rays - first)
            parts.append(PackedSamples(self.t_starts[part], self.t_ends[part], indices, count))
        return parts

    @functools.cached_property
    def firsts(self) -> Int[Tensor, "rays_and_one"]:
        """Place of each ray's first sample, and behind the last ray the number of samples."""
        return first_samples(self.ray_indices, self.n_rays)

    @property
    def t_middles(self) -> Float[Tensor, "n"]:
        return torch.lerp(self.t_starts, self.t_ends, 0.5)

    def points(self, rays_o: Float[Tensor, "rays 3"], rays_d: Float[Tensor, "rays 3"]) -> Float[Tensor, "n 3"]:
        """Middles of the intervals, in scene units."""
        return torch.addcmul(
            rays_o.index_select(0, self.ray_indices),
            rays_d.index_select(0, self.ray_indices),
            self.t_middles[:, None],
        )


def first_samples(ray_indices: Int[Tensor, "n"], n_rays: int) -> Int[Tensor, "rays_and_one"]:
    """`PackedSamples.firsts` of indices that are sorted."""
    return torch.searchsorted(ray_indices, torch.arange(n_rays + 1, device=ray_indices.device))


def intersect_ball(
    rays_o: Float[Tensor, "n 3"], rays_d: Float[Tensor, "n 3"], radius: float
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Distances at which unit-direction rays enter and leave the ball; equal where they miss it."""
    nearest = -(rays_o * rays_d).sum(-1)
    # The foot of the perpendicular, rather than |o|^2 - nearest^2, which cancels for far cameras.
    offset = torch.linalg.vector_norm(rays_o + nearest[:, None] * rays_d, dim=-1)
    half = (radius**2 - offset**2).clamp(min=0).sqrt()
    t_near = (nearest - half).clamp(min=0)
    return t_near, torch.maximum(nearest + half, t_near)


def intersect_box(
    rays_o: Float[Tensor, "n 3"], rays_d: Float[Tensor, "n 3"], radius: float
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Distances at which rays enter and leave the cube [-radius, radius]^3; equal where they miss it."""
    tiny = torch.full_like(rays_d, 1e-12)  # keeps 0 / 0 away from rays that run inside a face
    inverse = 1 / torch.where(rays_d.abs() < tiny, tiny, rays_d)
    first, second = (-radius - rays_o) * inverse, (radius - rays_o) * inverse
    t_near = torch.minimum(first, second).amax(-1).clamp(min=0)
    return t_near, torch.maximum(torch.maximum(first, second).amin(-1), t_near)


@functools.cache
def volume_backend(configured: str) -> BackendChoice:
    """What marches and composites, given ``render.volume.backend``; asked about a device, it answers and logs once."""
    return BackendChoice("volume renderer", "render.volume.backend", configured, (NUMBA, TRITON, TORCH))


def march_rays(
    rays_o: Float[Tensor, "n 3"],
    rays_d: Float[Tensor, "n 3"],
    occupancy: OccupancyGrid,
    *,
    bounds: str,
    step: float,
    first_step: Float[Tensor, "n"],
    backend: str = "auto",
) -> PackedSamples:
    """Intervals of length ``step`` that lie in occupied cells; nothing here is differentiable.

    Args:
        bounds: "ball" or "box", of the occupancy grid's radius.
        first_step: length of each ray's first interval as a share of ``step``, in (0, 1]; ones for
            no jitter.
        backend: as ``render.volume.backend``.

    Raises:
        ValueError: the backend doesn't run on the rays' device.
    """
    radius = occupancy.config.radius
    with torch.no_grad():
        intersect = {"ball": intersect_ball, "box": intersect_box}[bounds]
        t_near, t_far = intersect(rays_o, rays_d, radius)
        longest = 2 * radius * (1 if bounds == "ball" else math.sqrt(3))
        slots = math.ceil(longest / step) + 2  # one for the short first interval, one for roundings
        march = MARCHES[volume_backend(backend).on(rays_o.device)]
        return march(RaySegments(rays_o, rays_d, t_near, t_far, first_step, step, slots), occupancy)


@dataclass(frozen=True)
class RaySegments:
    """The parts of rays that are marched, and how they are cut into intervals."""

    rays_o: Float[Tensor, "n 3"]
    rays_d: Float[Tensor, "n 3"]
    t_near: Float[Tensor, "n"]
    t_far: Float[Tensor, "n"]
    first_step: Float[Tensor, "n"]  # length of the first interval, as a share of ``step``
    step: float  # length of the other intervals
    slots: int  # the most intervals of a ray


def march_reference(rays: RaySegments, occupancy: OccupancyGrid) -> PackedSamples:
    """`march_rays` between given distances, in plain PyTorch."""
    slot = torch.arange(rays.slots, device=rays.rays_o.device)
    near, far, share = rays.t_near[:, None], rays.t_far[:, None], rays.first_step[:, None]
    t_starts = near + (slot - 1 + share).clamp(min=0) * rays.step
    t_ends = torch.minimum(near + (slot + share) * rays.step, far)
    middles = (t_starts + t_ends) * 0.5
    points = rays.rays_o[:, None] + middles[..., None] * rays.rays_d[:, None]
    kept = (t_starts < t_ends) & occupancy.occupied(points)
    return PackedSamples(t_starts[kept], t_ends[kept], kept.nonzero()[:, 0], len(rays.rays_o))


def march_numba(rays: RaySegments, occupancy: OccupancyGrid) -> PackedSamples:
    """`march_reference` on CPU kernels: mark and count the intervals of every ray, then write them."""
    from renderers import ray_marching_kernels as kernels

    match_torch_threads()
    origins, directions, near, far, share = (
        tensor.float().contiguous().numpy()
        for tensor in (rays.rays_o, rays.rays_d, rays.t_near, rays.t_far, rays.first_step)
    )
    n_rays = len(origins)
    kept, counts = np.zeros((n_rays, rays.slots), np.bool_), np.empty(n_rays, np.int64)
    cells_per_unit, length = np.float32(occupancy.cells_per_unit), np.float32(rays.step)
    binary = occupancy.binary.numpy()
    kernels.mark_intervals(origins, directions, near, far, share, binary, cells_per_unit, length, kept, counts)
    total = int(counts.sum())
    t_starts, t_ends = np.empty(total, np.float32), np.empty(total, np.float32)
    ray_indices = np.empty(total, np.int64)
    firsts = np.cumsum(counts) - counts
    kernels.write_intervals(near, far, share, length, kept, firsts, t_starts, t_ends, ray_indices)
    return PackedSamples(torch.from_numpy(t_starts), torch.from_numpy(t_ends), torch.from_numpy(ray_indices), n_rays)


def march_triton(rays: RaySegments, occupancy: OccupancyGrid) -> PackedSamples:
    """`march_reference` on CUDA kernels."""
    from renderers.ray_marching_triton import march  # needs triton

    return PackedSamples(*march(rays, occupancy), len(rays.rays_o))


MARCHES = {"torch": march_reference, "numba": march_numba, "triton": march_triton}
