"""A CUDA z-buffer, written in Triton; the formulas are `rasterizer_backends.visible_faces_reference`'s.

A program treats one face and walks over the pixels of its bounding box in blocks. Faces compete for a pixel by atomic
minima of keys of depth and face, whose result doesn't depend on the order. Fused multiply-adds are off, so that a
pixel on an edge falls to the same face as in the reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.backends import on_device

if TYPE_CHECKING:
    from renderers.rasterizer_backends import ScreenMesh

BLOCK = 64  # pixels that are looked at together: most faces cover fewer


@triton.jit
def _area(from_x, from_y, to_x, to_y, x, y):
    """Twice the signed area of a side and a point."""
    return (to_x - from_x) * (y - from_y) - (to_y - from_y) * (x - from_x)


@triton.jit
def _first(a, b, c, end):
    """The first pixel along an axis whose centre lies behind all three."""
    first = tl.ceil(tl.minimum(tl.minimum(a, b), c) - 0.5)
    return tl.minimum(tl.maximum(first, 0.0), end.to(tl.float64)).to(tl.int32)


@triton.jit
def _last(a, b, c, end):
    """The last pixel along an axis whose centre lies before one of the three."""
    last = tl.floor(tl.maximum(tl.maximum(a, b), c) - 0.5)
    return tl.minimum(tl.maximum(last, -1.0), end.to(tl.float64) - 1.0).to(tl.int32)


@triton.jit(do_not_specialize=["height", "width"])
def _fill(xy, depth, faces, keys, height, width, BLOCK: tl.constexpr):
    """Lower ``keys [height * width]`` to the key of each face that a pixel's centre lies in: depth, then number."""
    face = tl.program_id(0).to(tl.int64)
    a, b, c = tl.load(faces + 3 * face), tl.load(faces + 3 * face + 1), tl.load(faces + 3 * face + 2)
    a_x, a_y = tl.load(xy + 2 * a).to(tl.float64), tl.load(xy + 2 * a + 1).to(tl.float64)
    b_x, b_y = tl.load(xy + 2 * b).to(tl.float64), tl.load(xy + 2 * b + 1).to(tl.float64)
    c_x, c_y = tl.load(xy + 2 * c).to(tl.float64), tl.load(xy + 2 * c + 1).to(tl.float64)
    near_a = 1.0 / tl.load(depth + a).to(tl.float64)
    near_b = 1.0 / tl.load(depth + b).to(tl.float64)
    near_c = 1.0 / tl.load(depth + c).to(tl.float64)
    left, top = _first(a_x, b_x, c_x, width), _first(a_y, b_y, c_y, height)
    columns = tl.maximum(_last(a_x, b_x, c_x, width) - left + 1, 0)
    rows = tl.maximum(_last(a_y, b_y, c_y, height) - top + 1, 0)
    start = 0
    while start < columns * rows:
        place = start + tl.arange(0, BLOCK)
        column, row = left + place % columns, top + place // columns
        x, y = column.to(tl.float64) + 0.5, row.to(tl.float64) + 0.5
        area_a = _area(b_x, b_y, c_x, c_y, x, y)
        area_b = _area(c_x, c_y, a_x, a_y, x, y)
        area_c = _area(a_x, a_y, b_x, b_y, x, y)
        total = area_a + area_b + area_c
        clockwise = (area_a >= 0) & (area_b >= 0) & (area_c >= 0) & (total > 0)
        counter = (area_a <= 0) & (area_b <= 0) & (area_c <= 0) & (total < 0)
        inside = (clockwise | counter) & (place < columns * rows)
        share = area_a * near_a + area_b * near_b + area_c * near_c
        surface = tl.where(inside, total / tl.where(inside, share, 1.0), 1.0).to(tl.float32)
        # Positive floats are ordered as their bits are.
        key = (surface.to(tl.int32, bitcast=True).to(tl.int64) << 32) | face
        tl.atomic_min(keys + row * width + column, key, inside, sem="relaxed")
        start += BLOCK


def visible_faces(view: ScreenMesh) -> Tensor:
    """Number of the face that each pixel shows, int64 [height, width], -1 where it shows none."""
    empty = torch.iinfo(torch.int64).max
    keys = torch.full((view.height * view.width,), empty, device=view.xy.device)
    tensors = [tensor.contiguous() for tensor in (view.xy, view.depth, view.faces)]
    if len(view.faces):
        with on_device(keys.device):
            _fill[(len(view.faces),)](
                *tensors, keys, view.height, view.width, BLOCK=BLOCK, num_warps=1, enable_fp_fusion=False
            )
    return torch.where(keys == empty, -1, keys & 0xFFFFFFFF).view(view.height, view.width)
