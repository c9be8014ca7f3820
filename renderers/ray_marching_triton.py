"""CUDA kernels of ray marching, written in Triton; the formulas are `ray_marching.march_reference`'s.

A program treats one ray, whose intervals lie side by side in a block. Fused multiply-adds are off and the order is the
reference's, so that both keep the same intervals. The march is done twice, to count and to write: that is cheaper than
to store a mark for every interval. Loops say `while`, because Triton's interpreter fails in a `range` to a variable
with NumPy 2.4 (triton 3.6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.backends import on_device

if TYPE_CHECKING:
    from renderers.ray_marching import OccupancyGrid, RaySegments

BLOCK = 128  # intervals that are looked at together: all of a ray at the default 96 across the diameter


@triton.jit
def _cell(coordinate, cells_per_unit, resolution):
    """Cell of a coordinate in scene units along one axis, clamped to the grid."""
    cell = (coordinate * cells_per_unit + 0.5 * resolution.to(tl.float32)).to(tl.int32)
    return tl.minimum(tl.maximum(cell, 0), resolution - 1)


@triton.jit
def _intervals(
    ray, slot, slots, rays_o, rays_d, t_near, t_far, first_step, binary, cells_per_unit, resolution, step
):  # fmt: skip
    """Starts and ends of a ray's intervals, and which of them are not empty and lie in occupied cells."""
    near, far, share = tl.load(t_near + ray), tl.load(t_far + ray), tl.load(first_step + ray)
    starts = near + tl.maximum((slot - 1).to(tl.float32) + share, 0.0) * step
    ends = tl.minimum(near + (slot.to(tl.float32) + share) * step, far)
    exists = (slot < slots) & (starts < ends)
    middles = (starts + ends) * 0.5
    x = _cell(tl.load(rays_o + 3 * ray) + middles * tl.load(rays_d + 3 * ray), cells_per_unit, resolution)
    y = _cell(tl.load(rays_o + 3 * ray + 1) + middles * tl.load(rays_d + 3 * ray + 1), cells_per_unit, resolution)
    z = _cell(tl.load(rays_o + 3 * ray + 2) + middles * tl.load(rays_d + 3 * ray + 2), cells_per_unit, resolution)
    occupied = tl.load(binary + (x * resolution + y) * resolution + z, exists, 0)
    return starts, ends, exists & (occupied != 0)


@triton.jit(do_not_specialize=["slots", "resolution"])
def _count(
    rays_o, rays_d, t_near, t_far, first_step, binary, counts, cells_per_unit, resolution, step, slots,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """How many intervals of each ray are kept, into ``counts [rays]``."""
    ray = tl.program_id(0).to(tl.int64)
    total = tl.zeros((1,), tl.int32)
    first = 0
    while first < slots:
        slot = first + tl.arange(0, BLOCK)
        _, _, kept = _intervals(
            ray, slot, slots, rays_o, rays_d, t_near, t_far, first_step, binary, cells_per_unit, resolution, step
        )
        total += tl.sum(kept.to(tl.int32), axis=0)
        first += BLOCK
    tl.store(counts + ray + tl.arange(0, 1), total)


@triton.jit(do_not_specialize=["slots", "resolution"])
def _write(
    rays_o, rays_d, t_near, t_far, first_step, binary, ends_of_rays, t_starts, t_ends, ray_indices,
    cells_per_unit, resolution, step, slots, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write each ray's kept intervals before ``ends_of_rays [rays]``, from where those of the ray before end."""
    ray = tl.program_id(0).to(tl.int64)
    rays = ray + tl.arange(0, 1)
    place = tl.load(ends_of_rays + rays - 1, rays > 0, 0)
    first = 0
    while first < slots:
        slot = first + tl.arange(0, BLOCK)
        starts, ends, kept = _intervals(
            ray, slot, slots, rays_o, rays_d, t_near, t_far, first_step, binary, cells_per_unit, resolution, step
        )
        number = tl.cumsum(kept.to(tl.int32), axis=0)
        target = place + number - 1
        tl.store(t_starts + target, starts, kept)
        tl.store(t_ends + target, ends, kept)
        tl.store(ray_indices + target, ray + tl.zeros((BLOCK,), tl.int64), kept)
        place += tl.sum(kept.to(tl.int32), axis=0)
        first += BLOCK


def march(rays: RaySegments, occupancy: OccupancyGrid) -> tuple[Tensor, Tensor, Tensor]:
    """Starts, ends and rays of the kept intervals; waits for the device once, to learn how many there are."""
    device, n_rays = rays.rays_o.device, len(rays.rays_o)
    inputs = [
        tensor.float().contiguous() for tensor in (rays.rays_o, rays.rays_d, rays.t_near, rays.t_far, rays.first_step)
    ]
    inputs.append(occupancy.binary.contiguous().view(torch.uint8))
    resolution = occupancy.config.resolution
    options = {"BLOCK": BLOCK, "num_warps": 1, "enable_fp_fusion": False}
    numbers = (float(occupancy.cells_per_unit), resolution, float(rays.step), rays.slots)
    counts = torch.empty(n_rays, dtype=torch.int32, device=device)
    with on_device(device):
        if n_rays:
            _count[(n_rays,)](*inputs, counts, *numbers, **options)
        ends_of_rays = torch.cumsum(counts, dim=0, dtype=torch.int64)
        total = int(ends_of_rays[-1]) if n_rays else 0
        t_starts, t_ends = (torch.empty(total, device=device) for _ in range(2))
        ray_indices = torch.empty(total, dtype=torch.int64, device=device)
        if total:
            _write[(n_rays,)](*inputs, ends_of_rays, t_starts, t_ends, ray_indices, *numbers, **options)
    return t_starts, t_ends, ray_indices
