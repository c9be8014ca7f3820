"""A kernel that tries whether Triton works on a device: a load, a sum and an atomic addition."""

import triton
import triton.language as tl


@triton.jit
def add_up(values, total, SIZE: tl.constexpr):
    """Add the sum of ``values [SIZE]`` onto ``total [1]``."""
    tl.atomic_add(total, tl.sum(tl.load(values + tl.arange(0, SIZE)), axis=0))
