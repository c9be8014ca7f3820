"""CUDA kernels of the multiresolution hash grid, written in Triton.

The formulas are those of `models.hash_grid.encode_reference`; see there. Conventions:

- A program treats ``BLOCK`` points; the table's kernels treat one level each, the second axis of the launch.
- ``levels [levels, 4]`` holds resolution, offset, size and whether it is hashed, int64.
- ``features`` is stored channels first, so that neighbouring points are neighbours in memory; callers see its
  transpose.
- Coordinates of vertices are multiplied by the axes' primes or strides in uint32, whose overflow is the hash's.
- Fused multiply-adds are off, so that a point lies in the same cell as in the reference.
- The table's gradient is summed by atomic additions, in an order that changes from run to run.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.backends import on_device

if TYPE_CHECKING:
    from models.hash_grid import HashGridLayout

BLOCK = 256  # points of a program


@triton.jit
def _coordinate(x, scale, resolution):
    """Cell (uint32) and weight along one axis; the cell is clamped so that a NaN can't leave the table."""
    position = x * scale + 0.5
    floor = tl.floor(position)
    cell = tl.minimum(tl.maximum(floor.to(tl.int32), 0), resolution)
    return cell.to(tl.uint32), position - floor


@triton.jit
def _strides(resolution, hashed):
    """What the coordinates y and z of a vertex are multiplied by."""
    side = resolution.to(tl.uint32)
    return tl.where(hashed, 2654435761, side).to(tl.uint32), tl.where(hashed, 805459861, side * side).to(tl.uint32)


@triton.jit
def _entry(x, y, z, stride_y, stride_z, size, hashed, CORNER: tl.constexpr):
    """Entry in its level of one of the 8 vertices of a cell; bit d of ``CORNER``: far side along axis d.

    Hashed levels have a power of two of entries. Dense indices exceed their level's size by less than that size.
    """
    x = x + (CORNER & 1)
    y = (y + ((CORNER >> 1) & 1)) * stride_y
    z = (z + (CORNER >> 2)) * stride_z
    index = tl.where(hashed, (x ^ y ^ z) & (size - 1), x + y + z)
    return tl.where(index >= size, index - size, index).to(tl.int64)


@triton.jit
def _side(weight, FAR: tl.constexpr):
    """Linear weight of the near or the far side."""
    if FAR:
        return weight
    else:
        return 1.0 - weight


@triton.jit(do_not_specialize=["n"])
def _encode(positions, table, scales, levels, features, n, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Interpolate a level at every point into ``features [levels * WIDTH, n]``."""
    level = tl.program_id(1)
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = point < n
    scale, resolution = tl.load(scales + level), tl.load(levels + 4 * level).to(tl.int32)
    offset, size = tl.load(levels + 4 * level + 1), tl.load(levels + 4 * level + 2).to(tl.uint32)
    hashed = tl.load(levels + 4 * level + 3) != 0
    x, wx = _coordinate(tl.load(positions + 3 * point, exists, 0.0), scale, resolution)
    y, wy = _coordinate(tl.load(positions + 3 * point + 1, exists, 0.0), scale, resolution)
    z, wz = _coordinate(tl.load(positions + 3 * point + 2, exists, 0.0), scale, resolution)
    stride_y, stride_z = _strides(resolution, hashed)
    feature = tl.arange(0, WIDTH)
    total = tl.zeros((BLOCK, WIDTH), tl.float32)
    for corner in tl.static_range(8):
        weight = _side(wx, corner & 1) * _side(wy, (corner >> 1) & 1) * _side(wz, corner >> 2)
        entry = offset + _entry(x, y, z, stride_y, stride_z, size, hashed, corner)
        value = tl.load(table + entry[:, None] * WIDTH + feature[None, :], exists[:, None], 0.0)
        total += weight[:, None] * value.to(tl.float32)
    channel = (level * WIDTH + feature).to(tl.int64)
    tl.store(features + channel[None, :] * n + point[:, None], total, exists[:, None])


@triton.jit(do_not_specialize=["n"])
def _table_gradient(
    positions, grad, grad_point, grad_channel, scales, levels, grad_table, n, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    """Add the gradient that belongs to ``grad``, of the features, onto ``grad_table [entries, WIDTH]``.

    ``grad_point`` and ``grad_channel`` are the strides of ``grad [n, channels]``.
    """
    level = tl.program_id(1)
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = point < n
    scale, resolution = tl.load(scales + level), tl.load(levels + 4 * level).to(tl.int32)
    offset, size = tl.load(levels + 4 * level + 1), tl.load(levels + 4 * level + 2).to(tl.uint32)
    hashed = tl.load(levels + 4 * level + 3) != 0
    x, wx = _coordinate(tl.load(positions + 3 * point, exists, 0.0), scale, resolution)
    y, wy = _coordinate(tl.load(positions + 3 * point + 1, exists, 0.0), scale, resolution)
    z, wz = _coordinate(tl.load(positions + 3 * point + 2, exists, 0.0), scale, resolution)
    stride_y, stride_z = _strides(resolution, hashed)
    feature = tl.arange(0, WIDTH)
    channel = (level * WIDTH + feature).to(tl.int64)
    upstream = tl.load(grad + point[:, None] * grad_point + channel[None, :] * grad_channel, exists[:, None], 0.0)
    for corner in tl.static_range(8):
        weight = _side(wx, corner & 1) * _side(wy, (corner >> 1) & 1) * _side(wz, corner >> 2)
        entry = offset + _entry(x, y, z, stride_y, stride_z, size, hashed, corner)
        target = grad_table + entry[:, None] * WIDTH + feature[None, :]
        tl.atomic_add(target, weight[:, None] * upstream, exists[:, None], sem="relaxed")


@triton.jit(do_not_specialize=["n"])
def _position_gradient(
    positions, table, grad, grad_point, grad_channel, scales, levels, grad_positions, n,
    LEVELS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradient with respect to the positions, into ``grad_positions [n, 3]``.

    Along an axis a corner's weight changes by the level's scale, upwards on the far side and downwards on the near
    one, times its weights along the other two axes.
    """
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = point < n
    p_x = tl.load(positions + 3 * point, exists, 0.0)
    p_y = tl.load(positions + 3 * point + 1, exists, 0.0)
    p_z = tl.load(positions + 3 * point + 2, exists, 0.0)
    feature = tl.arange(0, WIDTH)
    grad_x = tl.zeros((BLOCK,), tl.float32)
    grad_y = tl.zeros((BLOCK,), tl.float32)
    grad_z = tl.zeros((BLOCK,), tl.float32)
    for level in range(LEVELS):
        scale, resolution = tl.load(scales + level), tl.load(levels + 4 * level).to(tl.int32)
        offset, size = tl.load(levels + 4 * level + 1), tl.load(levels + 4 * level + 2).to(tl.uint32)
        hashed = tl.load(levels + 4 * level + 3) != 0
        x, wx = _coordinate(p_x, scale, resolution)
        y, wy = _coordinate(p_y, scale, resolution)
        z, wz = _coordinate(p_z, scale, resolution)
        stride_y, stride_z = _strides(resolution, hashed)
        channel = level * WIDTH + feature
        upstream = tl.load(grad + point[:, None] * grad_point + channel[None, :] * grad_channel, exists[:, None], 0.0)
        for corner in tl.static_range(8):
            entry = offset + _entry(x, y, z, stride_y, stride_z, size, hashed, corner)
            value = tl.load(table + entry[:, None] * WIDTH + feature[None, :], exists[:, None], 0.0)
            slope = tl.sum(value.to(tl.float32) * upstream, axis=1) * scale
            u, v, w = _side(wx, corner & 1), _side(wy, (corner >> 1) & 1), _side(wz, corner >> 2)
            grad_x += slope * v * w * (2 * (corner & 1) - 1)
            grad_y += slope * u * w * (2 * ((corner >> 1) & 1) - 1)
            grad_z += slope * u * v * (2 * (corner >> 2) - 1)
    tl.store(grad_positions + 3 * point, grad_x, exists)
    tl.store(grad_positions + 3 * point + 1, grad_y, exists)
    tl.store(grad_positions + 3 * point + 2, grad_z, exists)


@functools.lru_cache(maxsize=64)
def _levels_on(layout: HashGridLayout, device: torch.device) -> tuple[Tensor, Tensor]:
    """Scales [levels] and ``levels [levels, 4]``, on a device."""
    columns = (layout.resolutions, layout.offsets, layout.sizes, layout.hashed)
    levels = torch.stack([torch.from_numpy(column.astype("int64")) for column in columns], dim=-1)
    return torch.from_numpy(layout.scales).to(device), levels.to(device)


class TritonEncode(torch.autograd.Function):
    """`encode_reference` on CUDA kernels, differentiable once; float32 features whatever the table's format."""

    @staticmethod
    def forward(ctx, positions: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
        positions, table = positions.detach().contiguous(), table.detach().contiguous()
        n, n_levels = len(positions), len(layout.scales)
        features = torch.empty(n_levels * layout.features, n, device=positions.device)
        if n:
            with on_device(positions.device):
                _encode[(triton.cdiv(n, BLOCK), n_levels)](
                    positions, table, *_levels_on(layout, positions.device), features, n,
                    WIDTH=layout.features, BLOCK=BLOCK, enable_fp_fusion=False,
                )  # fmt: skip
        ctx.save_for_backward(positions, table)
        ctx.layout = layout
        return features.t()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        positions, table = ctx.saved_tensors
        layout, n = ctx.layout, len(positions)
        grad_positions = torch.zeros_like(positions) if ctx.needs_input_grad[0] else None
        grad_table = torch.zeros_like(table, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        scales, levels = _levels_on(layout, positions.device)
        blocks, options = triton.cdiv(n, BLOCK), {"WIDTH": layout.features, "BLOCK": BLOCK, "enable_fp_fusion": False}
        with on_device(positions.device):
            if n and grad_positions is not None:
                _position_gradient[(blocks,)](
                    positions, table, grad, *grad.stride(), scales, levels, grad_positions, n,
                    LEVELS=len(layout.scales), **options,
                )  # fmt: skip
            if n and grad_table is not None:
                _table_gradient[(blocks, len(layout.scales))](
                    positions, grad, *grad.stride(), scales, levels, grad_table, n, **options
                )
        return grad_positions, None if grad_table is None else grad_table.to(table.dtype), None
