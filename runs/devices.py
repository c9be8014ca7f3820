"""Where a run is computed: device, number format, threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from configs.load import find_device
from configs.schema import TrainerConfig


def use_threads(config: TrainerConfig) -> None:
    """Give PyTorch as many threads as the configuration says."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)


def chosen_precision(config: TrainerConfig) -> str:
    """Lightning's name of the number format: on CUDA bfloat16, or fp16 on GPUs older than that (Turing, Volta)."""
    if config.precision != "auto":
        return config.precision
    if find_device(config.accelerator) != "cuda":
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


@contextmanager
def ordered_sums(device: str) -> Iterator[None]:
    """Within the block sums on a CPU don't depend on the order of threads.

    Else these add up the gradients of shared vertices in whatever order, and a resumed run differs from one without
    a break. (On CUDA it would cost speed, and not every operation has such a form.)
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    if device == "cpu":
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a check for bugs, which costs time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]
