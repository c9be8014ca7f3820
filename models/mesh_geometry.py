"""Geometry of triangle meshes: edges, normals, volume, connected parts, and what makes a surface smooth.

Pure functions of vertices and faces, counter-clockwise seen from outside; whatever returns floats is
differentiable in the vertices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.transfer import to_device

Scalar = Float[Tensor, ""]


@dataclass(frozen=True)
class MeshEdges:
    """The edges of a mesh, each once."""

    vertices: Int[Tensor, "edges 2"]  # int64, in the direction in which the first face runs through them
    faces: Int[Tensor, "edges 2"]  # the two faces at each edge; the second is -1 where there is only one

    @property
    def closed(self) -> bool:
        """Whether every edge has two faces."""
        return bool((self.faces >= 0).all())


def mesh_edges(faces: Int[Tensor, "faces 3"], manifold: bool = True) -> MeshEdges:
    """The edges of a mesh that has at most two faces at an edge.

    Args:
        manifold: False admits edges of more faces, as users' meshes have them; one of n faces stands n - 1 times, each
            time with two of them.

    Raises:
        ValueError: more than two faces share an edge of a mesh that should be manifold.
    """
    half_edges = torch.stack([faces, faces.roll(-1, dims=1)], dim=-1).view(-1, 2)
    low, high = half_edges.amin(-1), half_edges.amax(-1)
    key, order = torch.sort(low << 32 | high, stable=True)
    if manifold and (key[2:] == key[:-2]).any():
        _, counts = torch.unique_consecutive(key, return_counts=True)
        raise ValueError(
            f"faces: {int((counts > 2).sum())} edges belong to more than two faces; "
            "only manifold meshes have a silhouette: split or repair the mesh"
        )
    differs = key[1:] != key[:-1]
    is_last, is_first = (nn.functional.pad(differs, side, value=True)[: len(key)] for side in ((0, 1), (1, 0)))
    is_alone = is_first & is_last
    place = (~is_last | is_alone).nonzero()[:, 0]
    half_edge = order[place]
    other = order[(place + 1).clamp(max=max(len(order) - 1, 0))] // 3
    beside = torch.stack([half_edge // 3, torch.where(is_alone[place], -1, other)], dim=-1)
    return MeshEdges(half_edges[half_edge], beside)


def area_vectors(vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]) -> Float[Tensor, "faces 3"]:
    """Outward normals of the faces, as long as the faces are large."""
    a, b, c = vertices[faces].unbind(1)
    return torch.linalg.cross(b - a, c - a) / 2


def vertex_normals(vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]) -> Float[Tensor, "vertices 3"]:
    """Unit normals of the vertices: the mean of their faces', weighted by area; zero where that is zero."""
    areas = area_vectors(vertices, faces)
    sums = torch.zeros_like(vertices).index_add(0, faces.view(-1), areas.repeat_interleave(3, dim=0))
    return _unit(sums)


def signed_volume(vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]) -> Scalar:
    """Enclosed volume of a closed mesh; negative where it is turned inside out."""
    return (vertices[faces].mean(1) * area_vectors(vertices, faces)).sum() / 3


def normal_consistency(
    vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"], edges: MeshEdges
) -> Scalar:
    """Mean of 1 - cos of the angle between the normals of faces that share an edge; 0 for a plane."""
    normals = _unit(area_vectors(vertices, faces))
    first, second = edges.faces.unbind(-1)
    is_shared = second >= 0
    second = second.clamp(min=0)
    bends = 1 - (normals[first] * normals[second]).sum(-1)
    # A face that has shrunk to nothing has no normal, thus no angle.
    flat = (normals[first].detach().abs().sum(-1) == 0) | (normals[second].detach().abs().sum(-1) == 0)
    return _mean(bends.masked_fill(flat, 0.0), is_shared)


def laplacian_smoothness(vertices: Float[Tensor, "vertices 3"], edges: MeshEdges) -> Scalar:
    """Mean squared distance of the vertices from the mean of their neighbours (uniform Laplacian), scene units^2."""
    start, end = edges.vertices.unbind(-1)
    sums = torch.zeros_like(vertices).index_add(0, start, vertices[end]).index_add(0, end, vertices[start])
    ends = edges.vertices.view(-1)
    degrees = torch.zeros(len(vertices), dtype=torch.int64, device=vertices.device).index_add(0, ends, ends * 0 + 1)
    centres = sums / degrees.clamp(min=1)[:, None]
    distances = (vertices - centres).square().sum(-1)
    return _mean(distances, degrees > 0)


def connected_parts(faces: Int[Tensor, "faces 3"]) -> Int[Tensor, "faces"]:
    """The number, from 0 on, of the part of the mesh that each face belongs to; parts share no vertex."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    corners = faces.detach().cpu().numpy()
    size = int(corners.max()) + 1 if len(corners) else 0
    ends = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(size, size))
    _, labels = connected_components(graph, directed=False)
    _, numbers = np.unique(labels[corners[:, 0]], return_inverse=True)
    return to_device(torch.from_numpy(numbers.astype(np.int64)), faces.device)


def remove_floaters(
    vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"], share: float
) -> tuple[Float[Tensor, "kept_vertices 3"], Int[Tensor, "kept_faces 3"]]:
    """Leave out parts whose surface is smaller than ``share`` of the largest part's.

    Whole parts go, with the vertices that no face needs any more, so a watertight mesh stays so.
    Differentiable in the vertices that stay.

    Raises:
        ValueError: the share does not lie in [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: {share:g} must lie in [0, 1]; 0 keeps every part")
    if len(faces) == 0:
        return vertices[:0], faces
    part = connected_parts(faces)
    areas = torch.linalg.vector_norm(area_vectors(vertices.detach(), faces), dim=-1)
    part_areas = torch.zeros(len(faces), dtype=areas.dtype, device=areas.device).index_add(0, part, areas)
    kept = faces[part_areas[part] >= share * part_areas.max()]
    used, renumbered = torch.unique(kept, return_inverse=True)
    return vertices[used], renumbered


def _unit(vectors: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Vectors of length 1; those that are zero stay so, without a gradient that would be infinite."""
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    smallest = torch.finfo(vectors.dtype).tiny ** 0.5
    return torch.where(lengths > smallest, vectors / lengths.clamp(min=smallest), 0 * vectors)


def _mean(values: Float[Tensor, "n"], counts: Bool[Tensor, "n"]) -> Scalar:
    """The mean of those that count, or 0 (with a graph) of none."""
    return values.masked_fill(~counts, 0.0).sum() / counts.sum().clamp(min=1)
