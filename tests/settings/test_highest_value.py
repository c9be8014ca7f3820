"""The highest value that a schedule reaches, as the estimate of memory asks for it."""

from __future__ import annotations

import pytest

from settings.schedules import highest

JUMP = [[0, 0.5], [10, 0.5], [10, 1.0], [20, 0.2]]


@pytest.mark.parametrize(
    ("knots", "last", "expected"),
    [
        (JUMP, 9, 0.5),
        (JUMP, 10, 1.0),
        (JUMP, 30, 1.0),  # before the end it was higher
        ([[0, 0.0], [10, 1.0]], 4, 0.4),  # on the way between two knots
        ([[5, 0.7]], 2, 0.7),  # before the first knot
    ],
)
def test_the_highest_value_up_to_an_iteration(knots, last, expected) -> None:
    assert highest(knots, last) == pytest.approx(expected)
