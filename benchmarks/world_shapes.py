"""Results against the world's true shapes: volume IoU and Chamfer distance to instances of a class.

The truth of a prompt is a distribution, not one thing. The result is aligned to each of many instances that the
world draws, by a similarity that keeps "up" up (`evaluation.shape_alignment`), and compared with the nearest
(`evaluation.shape_metrics`). The Chamfer distance to an instance is in units of the instance's radius: that of the
smallest ball around it about the middle of its bounding box.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from evaluation.occupancy import Grid, occupancy
from evaluation.shape_alignment import MovedShape, RestingShape, Similarity, align, refine
from evaluation.shape_metrics import CELLS, Box, Cloud, Surface, common_grid, iou_of
from models.mesh import Mesh, TexturedMesh
from priors.world.classes import build_solid
from priors.world.solids import Op, Solid

INSTANCES = 64
FINALISTS = 5  # instances, best first, whose alignment is refined and whose IoU is counted


@dataclass(frozen=True)
class ShapeScore:
    """A result against instances of its class; those nearest by IoU and by Chamfer distance may differ."""

    iou: float  # in [0, 1]
    chamfer: float  # in units of the instance's radius
    iou_instance: int  # number of the nearest instance
    chamfer_instance: int
    alignment: Similarity  # of the result to the instance nearest by IoU


@dataclass(frozen=True)
class Truth:
    """An instance of the world, ready to be compared with."""

    solid: Solid
    shape: RestingShape
    cloud: Cloud
    radius: float  # scene units

    def iou(self, surface: Surface) -> float:
        """Volume IoU with a surface that has been aligned."""
        grid = common_grid(surface.box(), _solid_box(self.solid), CELLS)
        solid = self.solid.occupancy(grid.centers()).reshape(grid.shape)
        return iou_of(occupancy(surface.vertices, surface.faces, grid), solid)


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
