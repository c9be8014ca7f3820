"""Schedules over iterations, written as knots: ``[[iteration, value], ...]``.

A schedule is piecewise linear between its knots and constant outside them; two knots at one iteration
make a jump, taken at that iteration. Iterations are integers, always: a schedule never changes its unit
because of a decimal point. With n particles every knot's iteration is multiplied by n (the paper's
annealing boundary moves from 5,000 to 20,000 for n = 4), which `scaled` does in one place.
"""

from __future__ import annotations

import math
from itertools import pairwise

Knots = list[list[float]]


def value_at(knots: Knots, iteration: float) -> float:
    """The schedule's value at an iteration."""
    if iteration < knots[0][0]:
        return float(knots[0][1])
    for (start, low), (end, high) in pairwise(knots):
        if start <= iteration < end:
            return float(low + (high - low) * (iteration - start) / (end - start))
    return float(knots[-1][1])


def highest(knots: Knots, last: float) -> float:
    """The schedule's highest value up to an iteration, this one included."""
    reached = [value for iteration, value in knots if iteration <= last]
    return max(value_at(knots, 0), *reached, value_at(knots, last))


def scaled(knots: Knots, factor: float) -> Knots:
    """The same schedule, stretched in time."""
    return [[iteration * factor, value] for iteration, value in knots]


def check_knots(knots: Knots) -> Knots:
    """Return ``knots``; raise a ValueError unless they are a schedule."""
    example = "write [[0, 0.98], [5000, 0.98], [5000, 0.5]]"
    if not knots or any(len(knot) != 2 for knot in knots):
        raise ValueError(f"must be a list of [iteration, value] pairs; {example}")
    if not all(math.isfinite(number) for knot in knots for number in knot):
        raise ValueError(f"must hold finite numbers; {example}")
    iterations = [knot[0] for knot in knots]
    if any(iteration < 0 or iteration != int(iteration) for iteration in iterations):
        raise ValueError(f"iterations must be whole numbers from 0 on, not {iterations}; {example}")
    if iterations != sorted(iterations):
        raise ValueError(f"iterations must not decrease, but are {iterations}; {example}")
    return knots


def check_not_negative(knots: Knots) -> Knots:
    """Return ``knots``; raise a ValueError if a value is below 0."""
    if any(value < 0 for _, value in knots):
        raise ValueError("values must be 0 or more")
    return knots


def check_above_zero(knots: Knots) -> Knots:
    """Return ``knots``; raise a ValueError if a value is 0 or less."""
    if any(value <= 0 for _, value in knots):
        raise ValueError("values must be above 0")
    return knots


def check_shares(knots: Knots) -> Knots:
    """Return ``knots``; raise a ValueError if a value lies outside of [0, 1]."""
    if any(not 0 <= value <= 1 for _, value in knots):
        raise ValueError("values must lie in [0, 1]")
    return knots
