"""The convolution with a weight gradient of its own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from priors.convolution import LARGEST_SIDE, MatrixProductConv2d, use_matrix_products


@pytest.mark.parametrize(("height", "width"), [(LARGEST_SIDE, LARGEST_SIDE), (3, 5), (1, 1), (LARGEST_SIDE + 1, 4)])
def test_values_and_gradients_are_those_of_the_library(height: int, width: int) -> None:
    torch.manual_seed(0)
    exact = nn.Conv2d(6, 4, 3, padding=1)
    fast = copy.deepcopy(exact)
    use_matrix_products(fast)
    assert type(fast) is MatrixProductConv2d
    x = torch.randn(5, 6, height, width)
    pull = torch.randn(5, 4, height, width)
    found = []
    for convolution, autocast in ((exact, False), (fast, True)):
        leaf = x.clone().requires_grad_(True)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = convolution(leaf)
        (y.float() * pull).sum().backward()
        found.append((y.float(), leaf.grad, convolution.weight.grad, convolution.bias.grad))
    for theirs, ours in zip(*found, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).norm() < 0.01 * theirs.norm()  # bfloat16 holds 8 bits


def test_only_convolutions_of_that_kind_are_changed_and_their_state_stays() -> None:
    module = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, stride=2, padding=1), nn.Conv2d(2, 2, 1))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    use_matrix_products(module)
    assert [type(part) is MatrixProductConv2d for part in module] == [True, False, False]
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
