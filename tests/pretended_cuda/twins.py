"""What the Triton kernels do, by the CPU's kernels: Triton's interpreter would take minutes for a run.

A twin has its kernel's arguments and writes into the same tensors. That kernels and CPU agree is tested where the
kernels are (``tests/**/*_triton.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models import hash_grid_kernels
from renderers import rasterizer_kernels, ray_marching_kernels
from renderers.volume import optical_depths, transmittances

# ---- models/hash_grid_triton.py


def _layout(scales: Tensor, levels: Tensor, width: int) -> tuple:
    resolutions, offsets, sizes, hashed = (np.ascontiguousarray(column) for column in levels.numpy().T)
    return scales.numpy(), resolutions, offsets, sizes, hashed != 0, (0,) * width


def encode(positions: Tensor, table: Tensor, scales, levels, features: Tensor, n: int, *, WIDTH: int, **_: Any) -> None:
    found = torch.empty(n, len(features))
    layout = _layout(scales, levels, WIDTH)
    hash_grid_kernels.encode(positions.numpy(), table.detach().numpy(), *layout, found.numpy())
    features.copy_(found.t())


def table_gradient(positions, grad, s0, s1, scales, levels, grad_table, n: int, *, WIDTH: int, **_: Any) -> None:
    layout = _layout(scales, levels, WIDTH)
    hash_grid_kernels.table_gradient(positions.numpy(), grad.contiguous().numpy(), *layout, grad_table.numpy())


def position_gradient(
    positions, table, grad, s0, s1, scales, levels, grad_positions, n: int, *, WIDTH: int, **_: Any
) -> None:
    layout = _layout(scales, levels, WIDTH)
    gradient = grad.contiguous().numpy()
    hash_grid_kernels.position_gradient(
        positions.numpy(), table.detach().numpy(), gradient, *layout, grad_positions.numpy()
    )


# ---- renderers/ray_marching_triton.py


def _mark(rays_o, rays_d, near, far, share, binary, cells_per_unit, step, slots) -> tuple[np.ndarray, np.ndarray]:
    kept, counts = np.zeros((len(rays_o), slots), np.bool_), np.empty(len(rays_o), np.int64)
    rays = (tensor.numpy() for tensor in (rays_o, rays_d, near, far, share))
    occupied = binary.view(torch.bool).numpy()
    numbers = np.float32(cells_per_unit), np.float32(step)
    ray_marching_kernels.mark_intervals(*rays, occupied, *numbers, kept, counts)
    return kept, counts


def count(*arguments: Any, **_: Any) -> None:
    *rays, counts, cells_per_unit, _resolution, step, slots = arguments
    counts.copy_(torch.from_numpy(_mark(*rays, cells_per_unit, step, slots)[1]))


def write(*arguments: Any, **_: Any) -> None:
    *rays, ends_of_rays, t_starts, t_ends, ray_indices, cells_per_unit, _resolution, step, slots = arguments
    kept, counts = _mark(*rays, cells_per_unit, step, slots)
    near, far, share = (tensor.numpy() for tensor in rays[2:5])
    firsts = ends_of_rays.numpy() - counts
    found = (tensor.numpy() for tensor in (t_starts, t_ends, ray_indices))
    ray_marching_kernels.write_intervals(near, far, share, np.float32(step), kept, firsts, *found)


# ---- renderers/compositing_triton.py


def _rays(firsts: Tensor) -> Tensor:
    return torch.arange(len(firsts) - 1).repeat_interleave(firsts.diff())


def weights(sigmas, t_starts, t_ends, firsts, found, transmittance, **_: Any) -> None:
    depths = optical_depths(sigmas, t_starts, t_ends)
    transmittance.copy_(transmittances(depths, _rays(firsts), len(firsts) - 1))
    found.copy_(transmittance * -torch.expm1(-depths))


def weights_gradient(
    sigmas, t_starts, t_ends, firsts, found, transmittance, grad, grad_transmittance, grad_sigmas, **_: Any
) -> None:
    with torch.enable_grad():
        densities = sigmas.detach().requires_grad_()
        depths = optical_depths(densities, t_starts, t_ends)
        light = transmittances(depths, _rays(firsts), len(firsts) - 1)
        outputs = light * -torch.expm1(-depths), light
        (gradient,) = torch.autograd.grad(outputs, densities, (grad, grad_transmittance))
    grad_sigmas.copy_(gradient)


def accumulate(found, values, firsts, sums, *, HAS_VALUES: bool, **_: Any) -> None:
    weighted = found[:, None] * values if HAS_VALUES else found[:, None]
    sums.copy_(torch.zeros_like(sums).index_add(0, _rays(firsts), weighted))


# ---- renderers/rasterizer_triton.py


def fill(xy: Tensor, depth: Tensor, faces: Tensor, keys: Tensor, height: int, width: int, **_: Any) -> None:
    visible = np.full((height, width), -1, np.int64)
    nearest = np.full((height, width), np.inf, np.float32)
    corners, nearness = (each.double()[faces].contiguous().numpy() for each in (xy, 1 / depth.double()))
    rasterizer_kernels.fill_z_buffer(corners, nearness, 1, nearest, visible)
    found = torch.from_numpy((nearest.view(np.int32).astype(np.int64) << 32) | visible)
    keys.copy_(torch.where(torch.from_numpy(visible) >= 0, found, keys.view(height, width)).view(-1))


def add_up(values: Tensor, total: Tensor, n: int, **_: Any) -> None:
    """Of `models.triton_trial`, whose two programs add the values each."""
    total += 2 * values[:n].sum()


TWINS: dict[str, Callable[..., None]] = {
    "_encode": encode,
    "_table_gradient": table_gradient,
    "_position_gradient": position_gradient,
    "_count": count,
    "_write": write,
    "_weights": weights,
    "_weights_gradient": weights_gradient,
    "_accumulate": accumulate,
    "_fill": fill,
    "add_up": add_up,
}
