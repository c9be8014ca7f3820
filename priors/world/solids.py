"""Solids of the closed world: analytic signed distance functions put together from parts.

A solid is a list of parts, folded from first to last by union, smooth union, subtraction or
intersection. A part is a primitive (ellipsoid, box, cone, torus, prism) with a pose and a material
slot. Solids are data, so that one compiled function evaluates all of them, and the renderer, the
occupancy and the mesh can't disagree.

Distances are negative inside. They are exact for boxes, cones and tori, and a first-order
approximation for ellipsoids and prisms; ``Solid.distance`` never overestimates by more than sphere
tracing with the step factor of ``appearance.py`` can take. World axes as in ``renderers/cameras.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import IntEnum

import numba
import numpy as np
from jaxtyping import Bool, Float, Int

from models.bounding_sphere import bounding_sphere

#: Radius of every solid's bounding sphere, which lies around the origin, in scene units.
RADIUS = 0.9

_SPIRAL = np.arange(256) + 0.5
#: 256 directions, spread evenly on the unit sphere (a Fibonacci spiral).
_DIRECTIONS = np.stack(
    [
        np.sqrt(1 - (1 - _SPIRAL / 128) ** 2) * np.cos(_SPIRAL * np.pi * (1 + 5**0.5)),
        1 - _SPIRAL / 128,
        np.sqrt(1 - (1 - _SPIRAL / 128) ** 2) * np.sin(_SPIRAL * np.pi * (1 + 5**0.5)),
    ],
    axis=1,
)
_CORNERS = np.stack(np.meshgrid(*[(-1.0, 1.0)] * 3), axis=-1).reshape(-1, 3)


class Kind(IntEnum):
    """Primitive; the meaning of ``Part.size`` stands beside each."""

    ELLIPSOID = 0  # radii along x, y, z
    BOX = 1  # half sizes along x, y, z (rounding included)
    CONE = 2  # radius at -y, radius at +y, half height (rounding included in the height)
    TORUS = 3  # radius of the circle in the xz plane, radius of the tube
    PRISM = 4  # half width (x) of the base, height (y) from base to apex, half depth (z)


class Op(IntEnum):
    """How a part joins what stands before it."""

    UNION = 0
    SUBTRACT = 1
    INTERSECT = 2


class Material(IntEnum):
    """Slots that a solid's surface points at; ``appearance.py`` turns them into colours."""

    MAIN = 0  # the captioned colour and pattern
    DARK = 1
    LIGHT = 2
    ACCENT = 3  # one fixed colour of each class
    TRIM = 4  # a darker shade of the captioned colour, without pattern


@dataclass(frozen=True)
class Part:
    """One primitive with a pose; ``rotation`` has the part's axes as columns (local to world)."""

    kind: Kind
    center: tuple[float, float, float]
    size: tuple[float, ...]
    material: Material = Material.MAIN
    rounding: float = 0.0
    op: Op = Op.UNION
    blend: float = 0.0  # radius of a smooth union, in scene units
    rotation: tuple[tuple[float, float, float], ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))

    def half_extent(self) -> Float[np.ndarray, "3"]:
        """Half sizes of a world-axis box around the part, around ``center``."""
        rotation = np.abs(np.asarray(self.rotation, dtype=np.float64))
        if self.kind is Kind.ELLIPSOID:
            return np.sqrt((rotation**2) @ np.square(self.size))
        if self.kind is Kind.CONE:
            radius = max(self.size[0], self.size[1])
            across = radius * np.sqrt(np.maximum(0.0, 1 - rotation[:, 1] ** 2))
            return across + rotation[:, 1] * self.size[2]
        if self.kind is Kind.TORUS:
            ring, tube = self.size[:2]
            return ring * np.sqrt(np.maximum(0.0, 1 - rotation[:, 1] ** 2)) + tube
        return rotation @ np.asarray(self.size[:3])

    def surface_points(self) -> Float[np.ndarray, "n 3"]:
        """Points on the surface, dense where it reaches farthest out."""
        size, r = np.asarray(self.size, dtype=np.float64), self.rounding
        angle = np.arange(32) * (2 * np.pi / 32)
        circle = np.stack([np.cos(angle), np.zeros(32), np.sin(angle)], axis=1)
        up = np.array([0.0, 1.0, 0.0])
        if self.kind is Kind.ELLIPSOID:
            local = _DIRECTIONS * size
        elif self.kind is Kind.BOX:
            local = (_CORNERS[:, None] * (size - r) + r * _DIRECTIONS[None, ::8]).reshape(-1, 3)
        elif self.kind is Kind.CONE:
            # Each end is a circle whose edge is rounded: three points of the rounding at each angle.
            edge = [(0.0, 1.0), (0.29, 0.29), (1.0, 0.0)]  # in units of r: inwards from the radius, from the height
            local = np.concatenate(
                [
                    circle * max(size[end] - across * r, 0.0) + up * side * (size[2] - along * r)
                    for end, side in ((0, -1.0), (1, 1.0))
                    for across, along in edge
                ]
            )
        elif self.kind is Kind.TORUS:
            turns = angle[::2, None, None]
            local = circle * (size[0] + size[1] * np.cos(turns)) + up * size[1] * np.sin(turns)
            local = local.reshape(-1, 3)
        else:
            base = np.array([[-size[0], -size[1] / 2], [size[0], -size[1] / 2], [0.0, size[1] / 2]])
            local = np.concatenate([np.insert(base, 2, z, axis=1) for z in (-size[2], size[2])])
        return np.asarray(self.center) + local @ np.asarray(self.rotation, dtype=np.float64).T


def rotation_to(axis: tuple[float, float, float]) -> tuple[tuple[float, float, float], ...]:
    """A rotation that takes the local y axis to ``axis``."""
    y = np.asarray(axis, dtype=np.float64)
    y /= np.linalg.norm(y)
    other = np.array([0.0, 0.0, 1.0]) if abs(y[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
    x = np.cross(y, other)
    x /= np.linalg.norm(x)
    return tuple(map(tuple, np.stack([x, y, np.cross(x, y)], axis=1)))


def rotation_about(axis: str, degrees: float) -> tuple[tuple[float, float, float], ...]:
    """Rotation by ``degrees`` about the world axis ``"x"``, ``"y"`` or ``"z"`` (right-hand rule)."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return {
        "x": ((1, 0, 0), (0, cosine, -sine), (0, sine, cosine)),
        "y": ((cosine, 0, sine), (0, 1, 0), (-sine, 0, cosine)),
        "z": ((cosine, -sine, 0), (sine, cosine, 0), (0, 0, 1)),
    }[axis]


@dataclass(frozen=True)
class Solid:
    """A folded list of parts; ``table`` is what the compiled functions read, one row a part."""

    parts: tuple[Part, ...]
    table: Float[np.ndarray, "parts 24"]

    @classmethod
    def from_parts(cls, parts: list[Part]) -> Solid:
        """Move and scale the parts so that their bounding sphere is that of radius ``RADIUS`` around the origin."""
        points = np.concatenate([part.surface_points() for part in parts if part.op is Op.UNION])
        points = points[_distances(_table(tuple(parts)), points)[0] < 2e-3]  # without what is cut away
        middle, radius = bounding_sphere(points)
        scale = RADIUS / radius
        moved = tuple(
            replace(
                part,
                center=tuple(float(v) for v in (np.asarray(part.center) - middle) * scale),
                size=tuple(float(v) * scale for v in part.size),
                rounding=part.rounding * scale,
                blend=part.blend * scale,
            )
            for part in parts
        )
        return cls(moved, _table(moved))

    def distance(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
        """Signed distance to the surface, negative inside."""
        return _distances(self.table, np.ascontiguousarray(points, dtype=np.float64))[0]

    def occupancy(self, points: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, "n"]:
        """Whether points lie inside."""
        return self.distance(points) < 0

    def material(self, points: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, "n"]:
        """``Material`` of the part that makes the surface nearest to each point."""
        return _distances(self.table, np.ascontiguousarray(points, dtype=np.float64))[1]

    def mesh(self, resolution: int = 96) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
        """Vertices and outward-facing triangles of the zero level, by marching cubes on [-1, 1]^3."""
        from skimage.measure import marching_cubes

        axis = np.linspace(-1.0, 1.0, resolution)
        points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
        values = self.distance(points).reshape(resolution, resolution, resolution)
        vertices, faces, _, _ = marching_cubes(values, 0.0, gradient_direction="descent")
        return vertices * (2.0 / (resolution - 1)) - 1.0, faces


def _table(parts: tuple[Part, ...]) -> Float[np.ndarray, "parts 24"]:
    table = np.zeros((len(parts), 24))
    for row, part in zip(table, parts, strict=True):
        row[0:3] = int(part.kind), int(part.op), int(part.material)
        row[3:6] = part.center
        row[6:15] = np.asarray(part.rotation, dtype=np.float64).T.reshape(-1)  # world to local
        row[15 : 15 + len(part.size)] = part.size
        row[18], row[19] = part.rounding, part.blend
        row[20] = np.linalg.norm(part.half_extent())
    return table


@numba.njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def _primitive(row, x, y, z):
    """Distance from a local point to the primitive of one table row."""
    kind = int(row[0])
    a, b, c, rounding = row[15], row[16], row[17], row[18]
    if kind == 0:
        k0 = math.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
        k1 = math.sqrt((x / (a * a)) ** 2 + (y / (b * b)) ** 2 + (z / (c * c)) ** 2)
        if k1 < 1e-9:
            return -min(a, min(b, c))
        return k0 * (k0 - 1.0) / k1
    if kind == 1:
        qx, qy, qz = abs(x) - a + rounding, abs(y) - b + rounding, abs(z) - c + rounding
        outside = math.sqrt(max(qx, 0.0) ** 2 + max(qy, 0.0) ** 2 + max(qz, 0.0) ** 2)
        return outside + min(max(qx, max(qy, qz)), 0.0) - rounding
    if kind == 2:
        # Capped cone: distance to the cap and to the side in the half plane (radius, y).
        r1, r2, h = max(a - rounding, 0.0), max(b - rounding, 0.0), c - rounding
        qx = math.sqrt(x * x + z * z)
        cap_x = qx - min(qx, r1 if y < 0.0 else r2)
        cap_y = abs(y) - h
        k2x, k2y = r2 - r1, 2.0 * h
        t = ((r2 - qx) * k2x + (h - y) * k2y) / (k2x * k2x + k2y * k2y)
        t = min(max(t, 0.0), 1.0)
        side_x, side_y = qx - r2 + k2x * t, y - h + k2y * t
        sign = -1.0 if (side_x < 0.0 and cap_y < 0.0) else 1.0
        d2 = min(cap_x * cap_x + cap_y * cap_y, side_x * side_x + side_y * side_y)
        return sign * math.sqrt(d2) - rounding
    if kind == 3:
        q = math.sqrt(x * x + z * z) - a
        return math.sqrt(q * q + y * y) - b
    # Prism: the largest of the distances to its planes, a lower bound outside.
    norm = math.sqrt(a * a + b * b)
    slope = (abs(x) * b + (y + b / 2) * a - a * b) / norm
    return max(max(slope, -(y + b / 2)), abs(z) - c)


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def solid_distance(table, x, y, z):
    """Signed distance and material of one point; the fold of all parts."""
    best, material = 1e9, 0
    for i in range(table.shape[0]):
        row = table[i]
        px, py, pz = x - row[3], y - row[4], z - row[5]
        op, blend = int(row[1]), row[19]
        # A part whose bounding ball is farther away than the best so far can't change it.
        reach = best + blend + row[20]
        if op == 0 and px * px + py * py + pz * pz > reach * reach and reach > 0.0:
            continue
        d = _primitive(
            row,
            row[6] * px + row[7] * py + row[8] * pz,
            row[9] * px + row[10] * py + row[11] * pz,
            row[12] * px + row[13] * py + row[14] * pz,
        )
        if op == 0:
            if d < best:
                material = int(row[2])
            if blend > 0.0:
                h = max(blend - abs(d - best), 0.0) / blend
                best = min(d, best) - h * h * blend * 0.25
            else:
                best = min(d, best)
        elif op == 1:
            if -d > best:
                material = int(row[2])
                best = -d
        elif d > best:
            material = int(row[2])
            best = d
    return best, material


@numba.njit(cache=True, error_model="numpy")
def _distances(table, points):
    distances, materials = np.empty(len(points)), np.empty(len(points), dtype=np.int64)
    for i in range(len(points)):
        distances[i], materials[i] = solid_distance(table, points[i, 0], points[i, 1], points[i, 2])
    return distances, materials
