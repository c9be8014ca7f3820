"""When an object has a second front."""

import pytest
import torch

from benchmarks.janus import has_second_front


@pytest.mark.parametrize(
    ("fronts", "second"),
    [((), False), ((3,), False), ((0, 7), False), ((2, 3), False), ((0, 2), True), ((0, 4), True), ((7, 0, 1), True)],
)
def test_two_fronts_are_neighbours_or_one_too_many(fronts, second):
    seen = torch.zeros(8, dtype=torch.bool)
    seen[list(fronts)] = True
    assert has_second_front(seen) is second
