"""Inside, outside and distance of a triangle mesh as users have them: holes, flipped faces, overlapping parts.

Inside is where the generalised winding number (Jacobson et al. 2013) exceeds 1/2, by its fast approximation on
triangle soups (Barill et al. 2018; libigl). It is 1 inside a closed surface and 0 outside, sums over parts, and fades
smoothly across a hole, so it needs neither a closed nor a manifold surface. It does need orientation, which
`solid_of` makes: faces that share an edge agree, and a connected piece that encloses its volume inside out is turned.
So the walls of a cavity count as a solid: a hollow ball is full, as it looks from outside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.sdf_init import LARGEST_DISTANCE, SMALLEST_DISTANCE
from models.tetrahedra import TetrahedralLattice

BULGE = 1e-3  # volume^2 / area^3 of an open piece above which the sign of its volume counts; a half ball has 1e-2
PROBE = 1e-3  # of the mesh's size: how far on both sides of a face its solid is looked for
PROBES = 4096
WELL_INSIDE = 0.6  # winding number; beside a sheet that is a little bent it is just above 1/2
SMALLEST_SOLID_SHARE = 0.5  # of the area that must bound a solid


@dataclass(frozen=True)
class MeshSolid:
    """What a mesh encloses. Points may be of any scale; distances are in the mesh's units."""

    vertices: Float[np.ndarray, "vertices 3"]  # float64
    faces: Int[np.ndarray, "faces 3"]  # int64, oriented outward

    def winding_number(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
        """How often the surface winds around points: about 1 inside, 0 outside, 2 where two parts overlap."""
        import igl

        return igl.fast_winding_number(self.vertices, self.faces, np.ascontiguousarray(points, np.float64))

    def signed_distance(self, points: Float[np.ndarray, "n 3"], largest: float) -> Float[np.ndarray, "n"]:
        """Distance from the surface, negative inside, cut off at ``largest`` on both sides.

        Across a hole the sign changes where the winding number is 1/2, at a distance that isn't 0.
        """
        import igl

        points = np.ascontiguousarray(points, np.float64)
        kind = igl.SignedDistanceType.SIGNED_DISTANCE_TYPE_UNSIGNED
        found = igl.signed_distance(points, self.vertices, self.faces, kind, 0.0, largest)[0]
        distance = np.where(np.isnan(found), largest, found)  # libigl marks what lies beyond the bound by NaN
        return np.where(self.winding_number(points) > 0.5, -distance, distance)

    def bounding_share(self, rng: np.random.Generator) -> float:
        """The share of the area that has the solid on one side alone: 1 for a closed surface, 0 for a sheet."""
        a, b, c = np.moveaxis(self.vertices[self.faces], 1, 0)
        vectors = np.cross(b - a, c - a)
        areas = np.linalg.norm(vectors, axis=1)
        face = rng.choice(len(areas), PROBES, p=areas / areas.sum())
        u, v = rng.random((2, PROBES, 1))
        points = (1 - np.sqrt(u)) * a[face] + np.sqrt(u) * ((1 - v) * b[face] + v * c[face])
        step = PROBE * np.ptp(self.vertices, axis=0).max() * vectors[face] / areas[face, None]
        above, below = (self.winding_number(points + way) > WELL_INSIDE for way in (step, -step))
        return float((above != below).mean())


def solid_of(vertices: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"]) -> MeshSolid:
    """The solid of a mesh whose vertices are joined where they are at one place (`MeshFile.welded`).

    Raises:
        ValueError: the mesh encloses too little: more than half of its surface are sheets without a volume.
    """
    solid = MeshSolid(np.ascontiguousarray(vertices, np.float64), oriented(vertices, without_doubles(faces)))
    if len(solid.faces) == 0:
        raise ValueError("faces: none has an area; export the model again")
    share = solid.bounding_share(np.random.default_rng(0))
    if share < SMALLEST_SOLID_SHARE:
        raise ValueError(
            f"faces: only {share:.0%} of the surface bounds a volume, the rest are sheets without thickness, and a "
            "signed distance needs an inside; give the sheets a thickness (Blender: Solidify) or close the holes, or "
            "go on with the stage texture, which needs no volume"
        )
    return solid


def lattice_distances(solid: MeshSolid, lattice: TetrahedralLattice) -> Float[Tensor, "vertices"]:
    """Signed distances of a lattice's vertices from a mesh in scene units, as `models.sdf_init` gives them.

    Raises:
        ValueError: no vertex of the lattice lies inside the mesh.
    """
    points = lattice.vertices.detach().cpu().double().numpy()
    distance = torch.from_numpy(solid.signed_distance(points, LARGEST_DISTANCE * lattice.spacing)).float()
    distance = distance.to(lattice.vertices.device)
    inside = (distance < 0) & ~lattice.on_boundary
    if not inside.any():
        raise ValueError(
            f"cells: the mesh is thinner than a cell of the lattice ({lattice.spacing:.3g} scene units), so nothing "
            "of it would be left; raise surface.field.cells, or go on with the stage texture"
        )
    # The smallest distance keeps triangles from shrinking to nothing.
    magnitude = distance.abs().clamp(min=SMALLEST_DISTANCE * lattice.spacing)
    return torch.where(inside, -magnitude, magnitude)


def turned_alike(
    vertices: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"]
) -> Int[np.ndarray, "faces 3"]:
    """All faces in their order, turned as `oriented` does; degenerate and doubled ones stay as they are."""
    kept = np.flatnonzero(~_is_double(faces))
    turned = faces.copy()
    turned[kept] = oriented(vertices, np.ascontiguousarray(faces[kept]))
    return turned


def without_doubles(faces: Int[np.ndarray, "faces 3"]) -> Int[np.ndarray, "fewer 3"]:
    """One of each set of three different vertices: no degenerate faces, none twice, none from both sides."""
    return np.ascontiguousarray(faces[~_is_double(faces)], np.int64)


def _is_double(faces: Int[np.ndarray, "faces 3"]) -> Bool[np.ndarray, "faces"]:
    """Whether each face repeats a vertex, or the three vertices of a face before it."""
    corners = np.sort(faces, axis=1)
    order = np.lexsort(corners.T)
    is_double = np.zeros(len(faces), bool)
    is_double[order[1:]] = (np.diff(corners[order], axis=0) == 0).all(axis=1)
    return is_double | (np.diff(corners, axis=1) == 0).any(axis=1)


def oriented(
    vertices: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"]
) -> Int[np.ndarray, "faces 3"]:
    """Faces turned so that neighbours agree, and each connected piece encloses a positive volume.

    Pieces are what edges of two faces connect. An open piece that bulges next to nothing, such as a sheet or a lid,
    keeps the orientation that most of its area has.
    """
    import igl

    if len(faces) == 0:
        return faces
    turned, piece = igl.bfs_orient(faces)
    turned, piece = turned.astype(np.int64, order="C"), piece.astype(np.int64)
    a, b, c = np.moveaxis(vertices[turned], 1, 0)
    vectors, middles = np.cross(b - a, c - a) / 2, (a + b + c) / 3
    areas = np.linalg.norm(vectors, axis=1)
    area = np.bincount(piece, areas)
    # Volumes from each piece's own centre, so that open pieces have one too, wherever they are.
    weights = np.stack([np.bincount(piece, areas * middles[:, k]) for k in range(3)], axis=1)
    centre = weights / np.maximum(area, np.finfo(float).tiny)[:, None]
    volume = np.bincount(piece, ((middles - centre[piece]) * vectors).sum(axis=1) / 3)
    agreement = np.bincount(piece, np.where(_same_turn(turned, faces), areas, -areas))
    has_sides = ~_open_pieces(turned, piece) | (volume**2 > BULGE * area**3)
    wrong = np.where(has_sides, volume < 0, agreement < 0)[piece]
    turned[wrong] = turned[wrong][:, ::-1]
    return turned


def _same_turn(first: Int[np.ndarray, "faces 3"], second: Int[np.ndarray, "faces 3"]) -> np.ndarray:
    """Whether faces of the same corners run through them in the same sense, ``[faces]``."""
    return np.any([(first == np.roll(second, shift, axis=1)).all(axis=1) for shift in range(3)], axis=0)


def _open_pieces(faces: Int[np.ndarray, "faces 3"], piece: Int[np.ndarray, "faces"]) -> np.ndarray:
    """Whether each piece has an edge with another number of its faces than two, ``[pieces]``."""
    edges = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2), axis=1)
    key = np.column_stack([np.repeat(piece, 3), edges])
    key = key[np.lexsort(key.T)]
    first = np.flatnonzero(np.append(True, (np.diff(key, axis=0) != 0).any(axis=1)))
    counts = np.diff(np.append(first, len(key)))
    return np.bincount(key[first, 0], counts != 2) > 0
