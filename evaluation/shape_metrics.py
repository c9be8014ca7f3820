"""Shapes against the truth: volume IoU and Chamfer distance of a result to instances of its class.

The truth of a prompt is a distribution, not one thing: the result is aligned to each of many instances that the
world draws, by a similarity that keeps "up" up (`evaluation.shape_alignment`), and compared with the nearest.

- IoU: volume of the intersection over that of the union, by counting cells of a common grid. A cavity that
  nothing leads into counts as filled, and surfaces deep inside don't count, as no picture shows them.
- Chamfer distance: mean distance of points on one surface to the other surface, averaged over both directions,
  not squared. Against an instance it is in units of the instance's radius: that of the smallest ball around it
  about the middle of its bounding box. The other surface is 20,000 points, so equal shapes are some 0.01 apart.

Results must be closed surfaces, faces counter-clockwise seen from outside; others are an error, for what they enclose
is undefined. Copies of a vertex at one place, as at the seams of a texture, are one vertex.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree

from evaluation.occupancy import Grid, occupancy, open_edges
from evaluation.shape_alignment import MovedShape, RestingShape, Similarity, align, refine
from models.mesh import Mesh, TexturedMesh
from models.mesh_geometry import connected_parts
from priors.world.classes import build_solid
from priors.world.solids import Op, Solid

INSTANCES = 64
CELLS = 64  # of the longest side of a bounding box, where volumes are compared
FINALISTS = 5  # instances, best first, whose alignment is refined and whose IoU is counted
SURFACE_POINTS, QUERY_POINTS = 20_000, 2_000  # that stand for a surface; that look for their nearest

Box = tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]  # lowest and highest corner
STILL = Similarity(0.0, 1.0, np.zeros(3))


@dataclass(frozen=True)
class ShapeScore:
    """A result against instances of its class; those nearest by IoU and by Chamfer distance may differ."""

    iou: float  # in [0, 1]
    chamfer: float  # in units of the instance's radius
    iou_instance: int  # number of the nearest instance
    chamfer_instance: int
    alignment: Similarity  # of the result to the instance nearest by IoU


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
    grid = _common_grid(a.box(), b.box(), cells)
    return _iou(occupancy(a.vertices, a.faces, grid), occupancy(b.vertices, b.faces, grid))


def chamfer_distance(first: Mesh | TexturedMesh, second: Mesh | TexturedMesh, seed: int = 0) -> float:
    """Chamfer distance of two closed meshes where they lie, in scene units; the seed draws the points."""
    rng = np.random.default_rng(seed)
    a, b = (Surface.of(mesh) for mesh in (first, second))
    return Cloud.of(a, rng).chamfer(Cloud.of(b, rng))


@dataclass(frozen=True)
class Truth:
    """An instance of the world, ready to be compared with."""

    solid: Solid
    shape: RestingShape
    cloud: Cloud
    radius: float  # scene units

    def iou(self, surface: Surface) -> float:
        """Volume IoU with a surface that has been aligned."""
        grid = _common_grid(surface.box(), _solid_box(self.solid), CELLS)
        solid = self.solid.occupancy(grid.centers()).reshape(grid.shape)
        return _iou(occupancy(surface.vertices, surface.faces, grid), solid)


@lru_cache(maxsize=2)
def world_truths(class_name: str, instances: int = INSTANCES, seed: int = 0) -> tuple[Truth, ...]:
    """Instances of a class, each of which depends on the seed and its number only; kept for the next call.

    Raises:
        ValueError: an unknown class, or no instance.
    """
    if instances < 1:
        raise ValueError(f"instances: {instances} must be at least 1")
    return tuple(_truth(class_name, np.random.default_rng([seed, index])) for index in range(instances))


def shape_score(mesh: Mesh | TexturedMesh, class_name: str, instances: int = INSTANCES, seed: int = 0) -> ShapeScore:
    """Align a result to each of many instances of its class, and compare it with the nearest.

    Deterministic from the seed, which draws the instances and the points of the Chamfer distance.

    Raises:
        ValueError: an unknown class, no instance, or a mesh that is not a closed surface.
    """
    truths = world_truths(class_name, instances, seed)
    surface = Surface.of(mesh)
    shape = MovedShape.of(surface.vertices, surface.faces)
    found = [align(shape, truth.shape) for truth in truths]
    finalists = sorted(range(instances), key=lambda index: -found[index].iou)[:FINALISTS]
    for index in finalists:
        found[index] = refine(found[index], shape, truths[index].shape)
    alignments = [each.similarity(shape, truth.shape) for each, truth in zip(found, truths, strict=True)]
    ious = {index: truths[index].iou(surface.moved(alignments[index])) for index in finalists}
    best = max(finalists, key=lambda index: ious[index])
    cloud = Cloud.of(surface, np.random.default_rng(seed), shape)
    chamfers = [cloud.chamfer(t.cloud, moved) / t.radius for t, moved in zip(truths, alignments, strict=True)]
    nearest = int(np.argmin(chamfers))
    return ShapeScore(ious[best], chamfers[nearest], best, nearest, alignments[best])


def _truth(class_name: str, rng: np.random.Generator) -> Truth:
    from skimage.measure import marching_cubes

    solid = build_solid(class_name, rng)
    lowest, highest = _solid_box(solid)
    grid = Grid.around(lowest, highest, float((highest - lowest).max()) / CELLS)
    centers = grid.centers()
    distances = solid.distance(centers)
    # One point anywhere in each cell: centres would shift faces along the axes by up to half a cell.
    inside = centers[distances < grid.cell]
    inside = inside + rng.uniform(-0.5, 0.5, inside.shape) * grid.cell
    inside = rng.permutation(inside[solid.occupancy(inside)])
    vertices, faces, _, _ = marching_cubes(distances.reshape(grid.shape), 0.0, gradient_direction="descent")
    surface = Surface((vertices + 0.5) * grid.cell + grid.lowest, faces.astype(np.int64))
    lowest, highest = surface.box()
    radius = np.linalg.norm(surface.vertices - (lowest + highest) / 2, axis=1).max()
    volume = len(inside) * grid.cell**3
    return Truth(solid, RestingShape.of(inside, volume), Cloud.of(surface, rng), float(radius))


def _solid_box(solid: Solid) -> Box:
    added = [part for part in solid.parts if part.op is Op.UNION]
    centers, halves = np.array([p.center for p in added]), np.array([p.half_extent() for p in added])
    return (centers - halves).min(axis=0), (centers + halves).max(axis=0)


def _common_grid(first: Box, second: Box, cells: int) -> Grid:
    lowest, highest = np.minimum(first[0], second[0]), np.maximum(first[1], second[1])
    return Grid.around(lowest, highest, float((highest - lowest).max()) / cells)


def _iou(first: Bool[np.ndarray, "nx ny nz"], second: Bool[np.ndarray, "nx ny nz"]) -> float:
    union = np.count_nonzero(first | second)
    return float(np.count_nonzero(first & second) / union) if union else 0.0


def _signed_volumes(
    vertices: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"]
) -> Float[np.ndarray, "faces"]:
    """Volumes of the tetrahedra between the faces and the middle of the vertices; positive if the face looks away."""
    a, b, c = np.moveaxis(vertices[faces] - vertices.mean(axis=0), 1, 0)
    return np.einsum("ij,ij->i", a, np.cross(b, c)) / 6
