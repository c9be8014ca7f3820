"""The sphere around an object, by which objects of all shapes get one size in the scene."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float


def bounding_sphere(points: Float[np.ndarray, "n 3"], steps: int = 120) -> tuple[Float[np.ndarray, "3"], float]:
    """Centre and radius of a sphere around all points, within about 1% of the smallest one.

    Badoiu and Clarkson 2003: the centre moves towards the farthest point, by ever smaller steps.
    """
    center = (points.min(axis=0) + points.max(axis=0)) / 2
    best, smallest = center, math.inf
    for step in range(steps):
        squared = np.square(points - center).sum(axis=1)
        farthest = int(squared.argmax())
        if squared[farthest] < smallest:
            best, smallest = center, squared[farthest]
        center = center + (points[farthest] - center) / (step + 5)
    return best, math.sqrt(smallest)
