"""Distances between closed surfaces: volume IoU and Chamfer distance, where they lie or after an alignment.

- IoU: volume of the intersection over that of the union, by counting cells of a common grid. A cavity that
  nothing leads into counts as filled. Surfaces deep inside do not count, as no picture shows them.
- Chamfer distance: mean distance of points on one surface to the other surface, averaged over both directions,
  not squared. The other surface is 20,000 points, so equal shapes of radius 1 are some 0.01 apart.

Surfaces must be closed, faces counter-clockwise seen from outside; others are an error, because what they enclose
is undefined. Copies of a vertex at one place, as at the seams of a texture, are one vertex.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree

from evaluation.occupancy import Grid, occupancy, open_edges
from evaluation.shape_alignment import MovedShape, Similarity
from models.mesh import Mesh, TexturedMesh
from models.mesh_geometry import connected_parts

CELLS = 64  # of the longest side of a bounding box, where volumes are compared
SURFACE_POINTS, QUERY_POINTS = 20_000, 2_000  # that stand for a surface; that look for their nearest

Box = tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]  # lowest and highest corner
STILL = Similarity(0.0, 1.0, np.zeros(3))


@dataclass(frozen=True)
class Surface:
    """A closed surface without cavities."""

    vertices: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "faces 3"]

    @classmethod
    def of(cls, mesh: Mesh | TexturedMesh) -> Surface:
        """A mesh, its cavities filled.

        Raises:
            ValueError: the mesh is empty, not finite, not closed, or turned inside out.
        """
        vertices = mesh.vertices.detach().cpu().numpy().astype(np.float64)
        if len(mesh.faces) == 0:
            raise ValueError("mesh: it has no faces; there is no shape to compare")
        if not (finite := np.isfinite(vertices).all(axis=1)).all():
            raise ValueError(f"mesh: {np.count_nonzero(~finite)} of {len(vertices)} vertices are not finite")
        vertices, merged = np.unique(vertices, axis=0, return_inverse=True)
        faces = merged.reshape(-1)[mesh.faces.cpu().numpy()]
        faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
        if count := open_edges(faces):
            raise ValueError(
                f"mesh: it is not closed: {count} edges lie at a hole, or between faces that look to opposite sides; "
                "close it, or extract it again from its field"
            )
        part = connected_parts(torch.from_numpy(faces)).numpy()
        volumes = np.bincount(part, _signed_volumes(vertices, faces))
        if not (volumes > 0).any():
            raise ValueError(f"mesh: it is inside out, its volume is {volumes.sum():.3g}; flip its faces")
        used, faces = np.unique(faces[(volumes > 0)[part]], return_inverse=True)
        return cls(vertices[used], faces.reshape(-1, 3))

    def moved(self, similarity: Similarity) -> Surface:
        return Surface(similarity.apply(self.vertices), self.faces)

    def box(self) -> Box:
        return self.vertices.min(axis=0), self.vertices.max(axis=0)

    def points(self, count: int, rng: np.random.Generator) -> Float[np.ndarray, "count 3"]:
        """Points evenly spread over the area."""
        a, b, c = np.moveaxis(self.vertices[self.faces], 1, 0)
        area = np.cumsum(np.linalg.norm(np.cross(b - a, c - a), axis=1))
        strata = (np.arange(count) + rng.random(count)) / count
        face = np.searchsorted(area, strata * area[-1]).clip(max=len(area) - 1)
        u, v = np.sqrt(rng.random((count, 1))), rng.random((count, 1))  # uniform over a triangle
        return (1 - u) * a[face] + u * (1 - v) * b[face] + u * v * c[face]


@dataclass(frozen=True)
class Cloud:
    """Points on a surface: many that are found, and a few others that look for their nearest."""

    queries: Float[np.ndarray, "n 3"]
    tree: cKDTree

    @classmethod
    def of(cls, surface: Surface, rng: np.random.Generator, shape: MovedShape | None = None) -> Cloud:
        """Points on a surface, without those that are buried in the shape, if one is given."""
        queries, points = surface.points(QUERY_POINTS, rng), surface.points(SURFACE_POINTS, rng)
        if shape is not None:
            queries, points = queries[~shape.buried(queries)], points[~shape.buried(points)]
        return cls(queries, cKDTree(points))

    def chamfer(self, other: Cloud, alignment: Similarity = STILL) -> float:
        """Chamfer distance to another cloud, in whose units it is, after this one has been aligned to it."""
        there = other.tree.query(alignment.apply(self.queries))[0].mean()
        back = self.tree.query(alignment.undo(other.queries))[0].mean() * alignment.scale
        return float(there + back) / 2


def volume_iou(first: Mesh | TexturedMesh, second: Mesh | TexturedMesh, cells: int = CELLS) -> float:
    """Volume IoU of two closed meshes where they lie, on a grid of ``cells`` along their common box's longest side."""
    a, b = Surface.of(first), Surface.of(second)
    grid = common_grid(a.box(), b.box(), cells)
    return iou_of(occupancy(a.vertices, a.faces, grid), occupancy(b.vertices, b.faces, grid))


def chamfer_distance(first: Mesh | TexturedMesh, second: Mesh | TexturedMesh, seed: int = 0) -> float:
    """Chamfer distance of two closed meshes where they lie, in scene units; the seed draws the points."""
    rng = np.random.default_rng(seed)
    a, b = (Surface.of(mesh) for mesh in (first, second))
    return Cloud.of(a, rng).chamfer(Cloud.of(b, rng))


def common_grid(first: Box, second: Box, cells: int) -> Grid:
    """A grid over two boxes, with ``cells`` along their common box's longest side."""
    lowest, highest = np.minimum(first[0], second[0]), np.maximum(first[1], second[1])
    return Grid.around(lowest, highest, float((highest - lowest).max()) / cells)


def iou_of(first: Bool[np.ndarray, "nx ny nz"], second: Bool[np.ndarray, "nx ny nz"]) -> float:
    """Intersection over union of two sets of cells; 0 where both are empty."""
    union = np.count_nonzero(first | second)
    return float(np.count_nonzero(first & second) / union) if union else 0.0


def _signed_volumes(
    vertices: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"]
) -> Float[np.ndarray, "faces"]:
    """Volumes of the tetrahedra between the faces and the middle of the vertices; positive if the face looks away."""
    a, b, c = np.moveaxis(vertices[faces] - vertices.mean(axis=0), 1, 0)
    return np.einsum("ij,ij->i", a, np.cross(b, c)) / 6
