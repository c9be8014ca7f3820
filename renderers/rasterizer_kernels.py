"""CPU kernels of the rasteriser, compiled by numba; the formulas are `rasterizer_backends.visible_faces_reference`'s.

Arithmetic runs in float64, in the order of the reference, and depths are compared in float32, so that both
find the same faces.
"""

from __future__ import annotations

import math

import numba
import numpy as np

HALF = 0.5


@numba.njit(cache=True)
def _area(corners, face, start, end, x, y):
    """Twice the signed area of a side of a face and a point."""
    start_x, start_y = corners[face, start, 0], corners[face, start, 1]
    side_x, side_y = corners[face, end, 0] - start_x, corners[face, end, 1] - start_y
    return side_x * (y - start_y) - side_y * (x - start_x)


@numba.njit(cache=True)
def _range(a, b, c, low, high):
    """Pixels of [low, high) whose centres lie between the least and the greatest of three coordinates."""
    first = math.ceil(min(a, b, c) - HALF)
    last = math.floor(max(a, b, c) - HALF)
    return int(min(max(first, low), high)), int(max(min(last + 1, high), low))


@numba.njit(cache=True)
def _fill_face(corners, nearness, face, low, high, nearest, visible):
    """Enter a face into the rows [low, high) of the z-buffer."""
    width = nearest.shape[1]
    first_row, end_row = _range(corners[face, 0, 1], corners[face, 1, 1], corners[face, 2, 1], low, high)
    if first_row >= end_row:
        return
    first_column, end_column = _range(corners[face, 0, 0], corners[face, 1, 0], corners[face, 2, 0], 0, width)
    for row in range(first_row, end_row):
        y = row + HALF
        for column in range(first_column, end_column):
            x = column + HALF
            a = _area(corners, face, 1, 2, x, y)
            b = _area(corners, face, 2, 0, x, y)
            c = _area(corners, face, 0, 1, x, y)
            total = a + b + c
            if total == 0 or not ((a >= 0 and b >= 0 and c >= 0) or (a <= 0 and b <= 0 and c <= 0)):
                continue
            share = a * nearness[face, 0] + b * nearness[face, 1] + c * nearness[face, 2]
            depth = np.float32(total / share)
            if depth < nearest[row, column]:
                nearest[row, column] = depth
                visible[row, column] = face


@numba.njit(parallel=True, cache=True)
def fill_z_buffer(corners, nearness, bands, nearest, visible):
    """Enter all faces; each band of rows belongs to one thread.

    Args:
        corners: of the faces on the screen, float64 [faces, 3, 2].
        nearness: 1 / depth of the corners, float64 [faces, 3].
    """
    height = nearest.shape[0]
    for band in numba.prange(bands):
        low, high = band * height // bands, (band + 1) * height // bands
        for face in range(corners.shape[0]):
            _fill_face(corners, nearness, face, low, high, nearest, visible)
