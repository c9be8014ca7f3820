"""How many threads the numba kernels use: as many as PyTorch."""

from __future__ import annotations

import torch


def match_torch_threads() -> None:
    """Set numba's threads to PyTorch's; to be called before every parallel kernel.

    Both may share one OpenMP runtime, in which numba's start (here, at the first call) overwrites the
    number of threads that PyTorch was given: it is put back.
    """
    import numba

    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
