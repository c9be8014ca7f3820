"""Functions of many points, evaluated a part at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

POINTS_PER_CHUNK = 2**17  # bounds the memory of an evaluation


def in_chunks(
    function: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n *channels"]],
    points: Float[Tensor, "points 3"],
    run_on: torch.device | str,
    gather_on: torch.device | str = "cpu",
) -> Float[Tensor, "points *channels"]:
    """The function's values at many points, in float32; the points may lie on another device."""
    chunks = points.split(POINTS_PER_CHUNK)
    return torch.cat([function(chunk.to(run_on)).float().to(gather_on) for chunk in chunks])
