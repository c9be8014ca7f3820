"""Copies to a device that don't make the host wait for it."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device.

    Random numbers are drawn on the CPU, so that a seed means the same on all devices. A copy of ordinary memory to a
    GPU waits until all that was asked of the GPU before is done; a copy of pinned memory takes its place in the queue.
    """
    if torch.device(device).type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
