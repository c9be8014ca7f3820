"""Signed distances on a tetrahedral lattice from a density: how a mesh starts from a radiance field.

Inside is where the density exceeds a level. The level set is refused where a mesh of it would be worthless:
if it is empty, fills the lattice, or falls apart into fragments; the error names levels that would work. Then
the surface is found on the lattice's edges by bisection of the density, which may rise from nothing to
opaque within one cell, and the lattice's vertices get their distances from that surface.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.fields import in_chunks
from models.mesh_geometry import vertex_normals
from models.tetrahedra import TETRAHEDRON_EDGES, TetrahedralLattice, crossed_edges, marching_tetrahedra

Density = Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]]

SMALLEST_MAIN_PART = 0.5  # share of the inside that the largest part must hold; less is a fragmented level set
CANDIDATE_LEVELS = 24  # tried when the given one fails
BISECTIONS = 8
SMALLEST_DISTANCE = 0.02  # of the spacing: keeps triangles from shrinking to nothing
LARGEST_DISTANCE = 4.0  # of the spacing: farther away distances are only ever read for their sign


@torch.no_grad()
def initial_sdf(
    density: Density,
    lattice: TetrahedralLattice,
    level: float,
    *,
    radius: float,
    bounds: str = "ball",
    floater_share: float = 0.02,
) -> Float[Tensor, "vertices"]:
    """Distances in scene units, negative inside, from the surface where the density crosses the level.

    They are cut off at four spacings.

    Args:
        density: called with points on the lattice's device.
        radius: of the ball, or half the side of the box.
        bounds: "ball" or "box", the renderer's; beyond them the density was never trained, nothing is inside.
        floater_share: parts with fewer vertices inside than this share of the largest part's are left out.

    Raises:
        ValueError: the level set is empty, full or fragmented.
    """
    bounded = _bounded(density, radius, bounds)
    values = torch.where(lattice.on_boundary, 0.0, bounded(lattice.vertices))
    inside = _checked_inside(values, lattice, level, floater_share)
    surface = _surface_points(bounded, lattice, inside, level)
    signs = torch.where(inside, -1.0, 1.0)
    _, faces = marching_tetrahedra(lattice.vertices, signs, lattice.tetrahedra)
    return signs * _distances(lattice, surface, vertex_normals(surface, faces))


@torch.no_grad()
def working_levels(density: Density, lattice: TetrahedralLattice, *, radius: float, bounds: str = "ball") -> str:
    """Levels whose surface is usable, or what to do where there are none, as the end of an error message."""
    values = _bounded(density, radius, bounds)(lattice.vertices)
    return _advice(torch.where(lattice.on_boundary, 0.0, values), lattice)


def _bounded(density: Density, radius: float, bounds: str) -> Density:
    """The density in chunks, and 0 beyond the ball or box that the renderer looks into."""
    if bounds not in ("ball", "box"):
        raise ValueError(f"bounds: {bounds!r} is not one of ball, box")

    def bounded(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        distance = torch.linalg.vector_norm(points, dim=-1) if bounds == "ball" else points.abs().amax(-1)
        values = in_chunks(density, points, points.device, points.device)
        return torch.where(distance < radius, values, 0.0)

    return bounded


def _checked_inside(
    values: Float[Tensor, "vertices"], lattice: TetrahedralLattice, level: float, floater_share: float
) -> Bool[Tensor, "vertices"]:
    """The main parts of the level set, if it is usable."""
    parts = _parts(values > level, lattice)
    sizes = np.bincount(parts[parts >= 0]) if (parts >= 0).any() else np.zeros(0, np.int64)
    problem = _problem(sizes, int((~lattice.on_boundary).sum()))
    if problem:
        raise ValueError(
            f"level: the density's level set at {level:g} {problem}; the density lies between "
            f"{values[~lattice.on_boundary].min().item():g} and {values.max().item():g}: {_advice(values, lattice)}"
        )
    kept = np.append(sizes >= floater_share * sizes.max(), False)  # the last one is what part -1 reads
    return torch.from_numpy(kept[parts]).to(values.device)


def _problem(sizes: np.ndarray, room: int) -> str | None:
    """What is wrong with a level set whose parts have these numbers of vertices, if anything."""
    if sizes.sum() == 0:
        return "is empty"
    if sizes.sum() == room:
        return "fills the whole lattice"
    if sizes.max() < SMALLEST_MAIN_PART * sizes.sum():
        return (
            f"is fragmented: it falls into {len(sizes)} parts, the largest of which holds "
            f"{sizes.max() / sizes.sum():.0%} of it, less than {SMALLEST_MAIN_PART:.0%}"
        )
    return None


def _advice(values: Float[Tensor, "vertices"], lattice: TetrahedralLattice) -> str:
    """Levels that would work, as the end of an error message."""
    greatest = values.max().item()
    if not 0 < greatest < float("inf"):
        return "train the earlier stage further, until there is an object"
    room = int((~lattice.on_boundary).sum())
    working = []
    for level in np.geomspace(1e-3 * greatest, 0.95 * greatest, CANDIDATE_LEVELS):
        parts = _parts(values > float(level), lattice)
        if _problem(np.bincount(parts[parts >= 0]), room) is None:
            working.append(f"{level:.3g}")
    if not working:
        return "no level gives one connected object; train the earlier stage further"
    return f"levels that would work: {', '.join(working)}"


def _parts(inside: Bool[Tensor, "vertices"], lattice: TetrahedralLattice) -> np.ndarray:
    """The number of the part of the inside that each vertex belongs to, -1 outside."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    tetrahedra = lattice.tetrahedra[inside[lattice.tetrahedra].sum(-1) >= 2]
    ends = tetrahedra[:, torch.tensor(TETRAHEDRON_EDGES, device=inside.device)].view(-1, 2)
    start, end = ends[inside[ends].all(-1)].cpu().numpy().T
    graph = coo_matrix((np.ones(len(start), np.int8), (start, end)), shape=(len(inside),) * 2)
    _, labels = connected_components(graph, directed=False)
    parts = np.full(len(inside), -1)
    mask = inside.cpu().numpy()
    _, parts[mask] = np.unique(labels[mask], return_inverse=True)
    return parts


def _surface_points(
    density: Density, lattice: TetrahedralLattice, inside: Bool[Tensor, "vertices"], level: float
) -> Float[Tensor, "crossed 3"]:
    """The point on every crossed edge where the density crosses the level."""
    edges = crossed_edges(inside, lattice.tetrahedra).edges
    swapped = inside[edges[:, 1]]
    inner = lattice.vertices[torch.where(swapped, edges[:, 1], edges[:, 0])]
    outer = lattice.vertices[torch.where(swapped, edges[:, 0], edges[:, 1])]
    for _ in range(BISECTIONS):
        middle = (inner + outer) / 2
        dense = (density(middle) > level)[:, None]
        inner, outer = torch.where(dense, middle, inner), torch.where(dense, outer, middle)
    return (inner + outer) / 2


def _distances(
    lattice: TetrahedralLattice, points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]
) -> Float[Tensor, "vertices"]:
    """Distances of the lattice's vertices from a surface given by points with normals, up to the largest."""
    from scipy.spatial import cKDTree

    tree = cKDTree(points.cpu().numpy())
    largest = LARGEST_DISTANCE * lattice.spacing
    found = tree.query(lattice.vertices.cpu().numpy(), distance_upper_bound=largest)
    distance, nearest = torch.from_numpy(found[0]).to(points), torch.from_numpy(found[1]).to(points.device)
    nearest = nearest.clamp(max=len(points) - 1)  # one past the end where the surface is farther than the largest
    # Close by, the surface's nearest point lies between those that are known, about in the tangent plane.
    along = ((lattice.vertices - points[nearest]) * normals[nearest]).sum(-1).abs()
    distance = torch.where(distance < 1.5 * lattice.spacing, along, distance)
    return distance.clamp(SMALLEST_DISTANCE * lattice.spacing, largest)
