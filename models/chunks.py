"""Functions of many points, evaluated a part at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

POINTS_PER_CHUNK = 2**17  # bounds the memory of an evaluation


def in_chunks(
    function: Callable[[Tensor], Tensor],
    points: Tensor,
    run_on: torch.device | str,
    gather_on: torch.device | str = "cpu",
) -> Tensor:
    """The function's values at ``points [n, 3]``, in float32; the points may lie on another device."""
    chunks = points.split(POINTS_PER_CHUNK)
    return torch.cat([function(chunk.to(run_on)).float().to(gather_on) for chunk in chunks])
