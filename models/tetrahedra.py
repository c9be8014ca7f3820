"""Tetrahedral lattice, and the surface of a signed distance on it by marching tetrahedra.

The lattice is body-centred cubic (Labelle and Shewchuk, "Isosurface Stuffing", 2007): corners and
centres of a grid of cubes. Two cubes that share a face have a tetrahedron for each edge of that face,
between that edge and the two centres; at the outside the second centre is the middle of the face. All
tetrahedra inside are congruent and nearly regular, and none is favoured by its direction.

Marching tetrahedra (Doi and Koide 1991; DMTet, Shen et al. 2021) puts a vertex on every edge whose ends
differ in sign, and one or two triangles into every tetrahedron that has such edges. Distances are
negative inside; a distance of exactly 0 counts as outside. Faces are counter-clockwise seen from outside.
While all vertices on the lattice's boundary are outside, the mesh is closed, and every edge has exactly
two faces, which run through it in opposite directions.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

TETRAHEDRON_EDGES = tuple(itertools.combinations(range(4), 2))


class TetrahedralLattice(nn.Module):
    """A cube filled with tetrahedra.

    A module without state, so that several surfaces can share one and it moves with them: it takes far more memory
    than what they train. The configuration determines it, so checkpoints need not hold it.
    """

    vertices: Float[Tensor, "vertices 3"]  # scene units
    tetrahedra: Int[Tensor, "tetrahedra 4"]  # int64; det(v1 - v0, v2 - v0, v3 - v0) > 0
    on_boundary: Bool[Tensor, "vertices"]
    spacing: float  # side of a cube of the grid, scene units

    def __init__(
        self,
        vertices: Float[Tensor, "vertices 3"],
        tetrahedra: Int[Tensor, "tetrahedra 4"],
        on_boundary: Bool[Tensor, "vertices"],
        spacing: float,
    ) -> None:
        super().__init__()
        self.register_buffer("vertices", vertices, persistent=False)
        self.register_buffer("tetrahedra", tetrahedra, persistent=False)
        self.register_buffer("on_boundary", on_boundary, persistent=False)
        self.spacing = spacing


def bcc_lattice(cells: int, radius: float) -> TetrahedralLattice:
    """The body-centred cubic lattice over [-radius, radius]^3, with ``cells`` cubes along an axis.

    Raises:
        ValueError: fewer than 2 cells, or a radius that is not positive.
    """
    if cells < 2:
        raise ValueError(f"cells: {cells} is too few; use at least 2")
    if not radius > 0:
        raise ValueError(f"radius: {radius:g} must be positive")
    axis = np.arange(cells + 1)
    corners = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    # Centres beyond the boundary fall onto it: the middle of the outer face that they would lie behind.
    middles = np.clip(np.arange(-1, cells + 1) + 0.5, 0, cells)
    centres = np.stack(np.meshgrid(middles, middles, middles, indexing="ij"), axis=-1).reshape(-1, 3)
    grid_points = np.concatenate([corners, centres])

    tetrahedra = np.concatenate([_tetrahedra_across(direction, cells) for direction in range(3)])
    # Those at the outer edges and corners belong to no tetrahedron.
    used = np.zeros(len(grid_points), bool)
    used[tetrahedra] = True
    grid_points, tetrahedra = grid_points[used], (np.cumsum(used) - 1)[tetrahedra]
    sides = grid_points[tetrahedra[:, 1:]] - grid_points[tetrahedra[:, :1]]
    inverted = np.einsum("ij,ij->i", sides[:, 0], np.cross(sides[:, 1], sides[:, 2])) < 0
    tetrahedra[inverted] = tetrahedra[inverted][:, [0, 1, 3, 2]]

    spacing = 2 * radius / cells
    return TetrahedralLattice(
        vertices=torch.from_numpy(grid_points * spacing - radius).float(),
        tetrahedra=torch.from_numpy(tetrahedra),
        on_boundary=torch.from_numpy(((grid_points == 0) | (grid_points == cells)).any(axis=-1)),
        spacing=spacing,
    )


def _tetrahedra_across(direction: int, cells: int) -> np.ndarray:
    """Tetrahedra around the grid's faces that are perpendicular to an axis, as indices of corners, then centres."""
    u, v = (axis for axis in range(3) if axis != direction)
    extent = np.full(3, cells)
    extent[direction] += 1
    face = np.stack(np.meshgrid(*(np.arange(n) for n in extent), indexing="ij"), axis=-1).reshape(-1, 3)
    step = np.eye(3, dtype=np.int64)

    def corner(shift: np.ndarray) -> np.ndarray:
        return np.ravel_multi_index((face + shift).T, (cells + 1,) * 3)

    def centre(shift: np.ndarray) -> np.ndarray:
        return np.ravel_multi_index((face + 1 + shift).T, (cells + 2,) * 3) + (cells + 1) ** 3

    around = [corner(shift) for shift in (0 * step[u], step[u], step[u] + step[v], step[v])]
    before, behind = centre(-step[direction]), centre(0 * step[direction])
    edges = zip(around, around[1:] + around[:1], strict=True)
    return np.concatenate([np.stack([start, end, before, behind], axis=-1) for start, end in edges])


def _triangle_table() -> Int[Tensor, "16 2 3"]:
    """For each set of inside vertices (bit i: vertex i), its triangles as numbers of edges; -1 where there is none."""
    number = {frozenset(edge): index for index, edge in enumerate(TETRAHEDRON_EDGES)}
    table = torch.full((16, 2, 3), -1, dtype=torch.int64)

    def triangle(*edges: tuple[int, int]) -> Tensor:
        return torch.tensor([number[frozenset(edge)] for edge in edges])

    for i, j, k, l in itertools.permutations(range(4)):  # noqa: E741
        if np.linalg.det(np.eye(4)[[i, j, k, l]]) < 0:
            continue
        # Seen from the other three, edges from i to j, k, l are counter-clockwise.
        table[1 << i, 0] = triangle((i, j), (i, k), (i, l))
        table[15 - (1 << i), 0] = triangle((i, l), (i, k), (i, j))
        if i < j:
            # Seen from k and l, the crossed edges run around in this order.
            table[1 << i | 1 << j, 0] = triangle((i, k), (i, l), (j, l))
            table[1 << i | 1 << j, 1] = triangle((i, k), (j, l), (j, k))
    return table


class _Tables(NamedTuple):
    ends: Int[Tensor, "6 2"]  # of the edges of a tetrahedron
    triangles: Int[Tensor, "16 2 3"]


@functools.cache
def _on(device: torch.device) -> _Tables:
    """The tables on a device, sent there once."""
    return _Tables(torch.tensor(TETRAHEDRON_EDGES).to(device), _triangle_table().to(device))


@dataclass(frozen=True)
class CrossedEdges:
    """Where the sign changes."""

    edges: Int[Tensor, "crossed 2"]  # ends, the smaller number first; sorted
    cases: Int[Tensor, "active"]  # for each tetrahedron with both signs: its set of inside vertices, see the table
    place: Int[Tensor, "active 6"]  # its edges' places in ``edges``, -1 for those that don't cross


def crossed_edges(inside: Bool[Tensor, "vertices"], tetrahedra: Int[Tensor, "tetrahedra 4"]) -> CrossedEdges:
    """Find the edges with one end inside; the surface has a vertex on each, in this order."""
    signs = inside[tetrahedra]
    active = (signs.any(-1) & ~signs.all(-1)).nonzero()[:, 0]  # places, since each use of a mask makes the host wait
    cases = (signs[active].long() << torch.arange(4, device=inside.device)).sum(-1)
    ends = tetrahedra[active][:, _on(inside.device).ends].sort(-1).values
    key = (ends[..., 0] * len(inside) + ends[..., 1]).view(-1)
    crossed = (inside[ends[..., 0]] != inside[ends[..., 1]]).view(-1).nonzero()[:, 0]
    keys, numbers = torch.unique(key[crossed], return_inverse=True)
    place = torch.full_like(key, -1)
    place[crossed] = numbers
    edges = torch.stack([keys // len(inside), keys % len(inside)], dim=-1)
    return CrossedEdges(edges, cases, place.view(-1, len(TETRAHEDRON_EDGES)))


def marching_tetrahedra(
    vertices: Float[Tensor, "vertices 3"], sdf: Float[Tensor, "vertices"], tetrahedra: Int[Tensor, "tetrahedra 4"]
) -> tuple[Float[Tensor, "surface_vertices 3"], Int[Tensor, "faces 3"]]:
    """The surface sdf = 0 as vertices and faces; empty where the distance has one sign.

    Differentiable in ``vertices`` and ``sdf``; which tetrahedra are crossed is not.
    """
    crossed = crossed_edges(sdf.detach() < 0, tetrahedra)
    start, end = crossed.edges.unbind(-1)
    share = (sdf[start] / (sdf[start] - sdf[end]))[:, None]  # of the way to the end
    surface_vertices = vertices[start] + share * (vertices[end] - vertices[start])
    edges = _on(sdf.device).triangles[crossed.cases].flatten(1)
    faces = crossed.place.gather(1, edges.clamp(min=0)).view(-1, 3)
    return surface_vertices, faces[edges.view(-1, 3)[:, 0] >= 0]
