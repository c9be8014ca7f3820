"""Closed meshes made fit for other programs: every edge with two faces, and nothing that nobody can see."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.mesh_geometry import connected_parts

BEND = 0.01  # how far the middles of parted edges move, as a share of the edge

Mesh = tuple[Float[Tensor, "new_vertices 3"], Int[Tensor, "new_faces 3"]]


def without_cavities(vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]) -> Mesh:
    """Leave out closed parts that are inside out: the walls of cavities, which no camera outside sees."""
    if len(faces) == 0:
        return vertices, faces
    part = connected_parts(faces)
    # Of each part's own centre of faces, so that rounding does not decide on a small part far away.
    corners = vertices.detach().double()[faces]
    count = int(part.max()) + 1
    sizes = torch.bincount(part, minlength=count).double()
    centres = torch.zeros(count, 3, dtype=corners.dtype, device=corners.device).index_add(0, part, corners.mean(1))
    a, b, c = (corners - (centres / sizes[:, None])[part][:, None]).unbind(1)
    volumes = torch.zeros(count, dtype=corners.dtype, device=corners.device)
    volumes = volumes.index_add(0, part, (a * torch.linalg.cross(b, c)).sum(-1) / 6)
    return _used(vertices, faces[volumes[part] >= 0])


def split_pinches(vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]) -> Mesh:
    """Part walls of a solid that touch along an edge, as they can after simplification.

    An edge of four or more faces is replaced by one for each two faces with solid between them. It bends a little
    into that solid at its middle, so that edges also stay apart in programs that merge vertices by their places.
    Two faces back to back, which enclose nothing, are left out. What was closed and oriented stays so.

    An edge that its faces do not run through equally often in both directions, of a mesh that is open there, is left.
    """
    if len(faces) == 0:
        return vertices, faces
    kept = _without_flaps(faces.cpu().numpy())
    places = vertices.detach().cpu().double().numpy()
    for low, high in _pinched(kept).tolist():
        places, kept = _parted(places, kept, low, high)
    vertices = torch.cat([vertices, torch.from_numpy(places[len(vertices) :]).to(vertices)])
    return _used(vertices, torch.from_numpy(kept).to(faces))


def _without_flaps(faces: np.ndarray) -> np.ndarray:
    """Without pairs of faces that have the same corners and opposite orientations."""
    turned = np.stack([np.roll(faces, shift, axis=1) for shift in range(3)], axis=1)
    turned = turned[np.arange(len(faces)), faces.argmin(1) * 2 % 3]  # the lowest vertex first
    is_even = turned[:, 1] < turned[:, 2]
    order = np.lexsort((is_even, *np.sort(faces, axis=1).T))
    kept: list[int] = []
    for face in order:
        last = kept[-1] if kept else face
        if is_even[last] != is_even[face] and set(faces[last]) == set(faces[face]):
            kept.pop()
        else:
            kept.append(face)
    return faces[np.sort(kept)]


def _pinched(faces: np.ndarray) -> np.ndarray:
    """Edges ``[n, 2]`` of more than two faces, the lower vertex first."""
    edges = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2), axis=1)
    unique, counts = np.unique(edges, axis=0, return_counts=True)
    return unique[counts > 2]


def _parted(vertices: np.ndarray, faces: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """The mesh with one middle of the edge for each two faces that have solid between them."""
    at_edge = np.flatnonzero((faces == low).any(1) & (faces == high).any(1))
    corner = (faces[at_edge] == low).argmax(1)
    rises = faces[at_edge, (corner + 1) % 3] == high
    if 2 * rises.sum() != len(at_edge):
        return vertices, faces
    opposite = faces[at_edge].sum(1) - low - high
    length = np.linalg.norm(vertices[high] - vertices[low])
    axis = (vertices[high] - vertices[low]) / max(length, np.finfo(float).tiny)
    arms = vertices[opposite] - vertices[low]
    x = _unit(arms[0] - (arms[0] @ axis) * axis)
    y = np.cross(axis, x)
    angle = np.arctan2(arms @ y, arms @ x)
    free, added = list(np.flatnonzero(~rises)), []
    for one in np.flatnonzero(rises):
        # A turn towards a rising face's outward normal increases the angle, so its solid lies where it decreases.
        wedge = {other: (angle[one] - angle[other]) % (2 * np.pi) for other in free}
        other = min(wedge, key=wedge.__getitem__)
        free.remove(other)
        inwards = angle[one] - wedge[other] / 2
        bend = BEND * length * (np.cos(inwards) * x + np.sin(inwards) * y)
        middle = len(vertices)
        vertices = np.concatenate([vertices, [(vertices[low] + vertices[high]) / 2 + bend]])
        for face in at_edge[[one, other]]:
            half = np.where(faces[face] == low, middle, faces[face])
            faces[face] = np.where(faces[face] == high, middle, faces[face])
            added.append(half)
    return vertices, np.concatenate([faces, added])


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(np.linalg.norm(vector), np.finfo(float).tiny)


def _used(vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]) -> Mesh:
    """Without the vertices that no face needs."""
    used, renumbered = torch.unique(faces, return_inverse=True)
    return vertices[used], renumbered
