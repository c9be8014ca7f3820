"""How far two correct float32 computations may differ: they add the same terms in another order."""

from __future__ import annotations

import torch

# Terms on the longest path through a tiny network of tests/tiny_priors.py: 10 convolutions of 9 x 8, or T5's sum over
# 512 tokens and some products of width 40.
NETWORK = 1000


def assert_equal_to_rounding(
    actual: torch.Tensor, expected: torch.Tensor, terms: int = NETWORK, size: float | None = None
) -> None:
    """|actual - expected| <= terms * eps * size, elementwise.

    A sum of n terms has an error of at most about n eps of the largest partial sum, whatever the order. That holds on
    every processor; vector widths change the order.

    Args:
        terms: terms that are added from the common input to the result.
        size: the largest value on the way, where that is more than the largest of the result.
    """
    size = expected.abs().max().item() if size is None else size
    atol = terms * torch.finfo(torch.float32).eps * size
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)
