"""What a closed triangle mesh encloses, on regular grids.

A point is inside where the winding number of the surface is positive: the crossings of the surface below
the point are counted along y, faces seen from outside as +1 and from inside as -1. Parts that overlap thus count
once, and a cavity counts as outside. Grids hold cells; what is asked about is their centres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Grid:
    """Cubic cells in a box: their number along x, y, z, the box's lowest corner, and a cell's side."""

    shape: tuple[int, int, int]
    lowest: Float[np.ndarray, "3"]
    cell: float

    @classmethod
    def around(cls, lowest: Float[np.ndarray, "3"], highest: Float[np.ndarray, "3"], cell: float) -> Grid:
        """The grid that covers a box with a margin of at least one cell, centred on the box."""
        counts = np.ceil((highest - lowest) / cell).astype(int) + 2
        return cls(tuple(counts.tolist()), (lowest + highest - counts * cell) / 2, cell)

    def centers(self) -> Float[np.ndarray, "cells 3"]:
        """Centres of all cells, x slowest."""
        axes = [low + (np.arange(n) + 0.5) * self.cell for low, n in zip(self.lowest, self.shape, strict=True)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def open_edges(faces: Int[np.ndarray, "faces 3"]) -> int:
    """How many edges are not run through as often in one direction as in the other; 0 for a closed surface.

    More than two faces may share an edge, as where two parts touch.
    """
    half_edges = np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2)
    low, high = half_edges.min(axis=1), half_edges.max(axis=1)
    _, edge = np.unique(low * (faces.max(initial=0) + 1) + high, return_inverse=True)
    return int(np.count_nonzero(np.bincount(edge, np.sign(half_edges[:, 1] - half_edges[:, 0]))))


def occupancy(
    vertices: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"], grid: Grid
) -> Bool[np.ndarray, "nx ny nz"]:
    """Whether the centres of cells lie inside a closed surface, which may reach beyond the grid."""
    found = _crossings(vertices, faces, grid, 1)
    above = np.ceil(found.height - 0.5).clip(min=0).astype(np.int64)
    return _cumulated(grid, found, [(above, found.sign)]) > 0.5


def coverage(
    vertices: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"], grid: Grid, samples: int = 4
) -> Float[np.ndarray, "nx ny nz"]:
    """Share of each cell inside a closed surface: exact along y, ``samples`` squared columns across; float32.

    Where parts of the surface overlap, cells at the inner one's border count as full.
    """
    found = _crossings(vertices, faces, grid, samples)
    cell = np.floor(found.height).astype(np.int64)
    rest = cell + 1 - found.height  # of the cell that the crossing lies in
    below = cell < 0
    cell, rest = np.where(below, 0, cell), np.where(below, 1.0, rest)
    steps = [(cell, found.sign * rest), (cell + 1, found.sign * (1 - rest))]
    return (_cumulated(grid, found, steps) / samples**2).clip(0, 1).astype(np.float32)


@dataclass(frozen=True)
class _Crossings:
    """Where vertical lines cross a surface."""

    column: Int[np.ndarray, "n 2"]  # x and z of the cell
    height: Float[np.ndarray, "n"]  # in cells above the grid's bottom
    sign: Float[np.ndarray, "n"]  # what the winding number gains above


def _crossings(
    vertices: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"], grid: Grid, samples: int
) -> _Crossings:
    """Those of ``samples`` squared evenly spaced lines through each cell of the floor."""
    places = (np.asarray(vertices, dtype=np.float64) - grid.lowest) / grid.cell
    places[:, ::2] = places[:, ::2] * samples - 0.5  # lines become integers
    nx, nz = grid.shape[0] * samples, grid.shape[2] * samples
    count = _enumerate(places, faces, nx, nz, np.empty((0, 2), np.int64), np.empty(0), np.empty(0))
    column, height, sign = np.empty((count, 2), np.int64), np.empty(count), np.empty(count)
    _enumerate(places, faces, nx, nz, column, height, sign)
    return _Crossings(column // samples, height, sign)


def _cumulated(
    grid: Grid, found: _Crossings, steps: list[tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n"]]]
) -> Float[np.ndarray, "nx ny nz"]:
    """The sum, from the bottom up to each cell, of steps at cells of the crossings' columns."""
    nx, ny, nz = grid.shape
    total = np.zeros(nx * (ny + 1) * nz)
    for cell, size in steps:
        row = np.minimum(cell, ny)  # what happens above the grid goes to a row that is left out
        total += np.bincount((found.column[:, 0] * (ny + 1) + row) * nz + found.column[:, 1], size, len(total))
    return np.cumsum(total.reshape(nx, ny + 1, nz), axis=1)[:, :ny]


@numba.njit(cache=True)
def _on_left(places, a, b, z, x):
    """Whether (z, x) lies on the left of the line from vertex a to vertex b, looking along -y.

    A point on the line counts as if it were shifted by next to nothing along x, and by still less along z (Edelsbrunner
    and Mücke 1990), so that a line through an edge or a vertex enters a closed surface as often as it leaves.
    """
    first, second = min(a, b), max(a, b)  # rounded in the same way for both faces at an edge
    along_z, along_x = places[second, 2] - places[first, 2], places[second, 0] - places[first, 0]
    across = along_z * (x - places[first, 0]) - along_x * (z - places[first, 2])
    if across == 0.0:
        across = along_z if along_z != 0.0 else -along_x
    return across > 0.0 if a < b else across <= 0.0


@numba.njit(cache=True)
def _enumerate(places, faces, nx, nz, column, height, sign):
    """The number of crossings; they are written as far as there is room."""
    found = 0
    for face in range(len(faces)):
        a, b, c = faces[face]
        ax, ay, az = places[a]
        bx, by, bz = places[b]
        cx, cy, cz = places[c]
        area = (bz - az) * (cx - ax) - (bx - ax) * (cz - az)  # twice the one seen along y
        if area == 0.0:
            continue
        for i in range(max(math.ceil(min(ax, bx, cx)), 0), min(math.floor(max(ax, bx, cx)), nx - 1) + 1):
            for k in range(max(math.ceil(min(az, bz, cz)), 0), min(math.floor(max(az, bz, cz)), nz - 1) + 1):
                left = _on_left(places, a, b, k, i)
                if _on_left(places, b, c, k, i) != left or _on_left(places, c, a, k, i) != left:
                    continue
                if found < len(height):
                    share_b = ((k - az) * (cx - ax) - (i - ax) * (cz - az)) / area
                    share_c = ((bz - az) * (i - ax) - (bx - ax) * (k - az)) / area
                    y = ay + share_b * (by - ay) + share_c * (cy - ay)
                    column[found, 0], column[found, 1] = i, k
                    height[found] = min(max(y, min(ay, by, cy)), max(ay, by, cy))  # faces on edge: any y else
                    sign[found] = -1.0 if left else 1.0
                found += 1
    return found
