"""What a renderer returns; images are BHWC."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from models.mesh_geometry import MeshEdges
from renderers.ray_marching import PackedSamples


@dataclass(frozen=True)
class RenderedMesh:
    """The surface that the mesh renderer drew."""

    vertices: Float[Tensor, "vertices 3"]  # scene units
    faces: Int[Tensor, "faces 3"]
    edges: MeshEdges


@dataclass(frozen=True)
class RenderOutput:
    """Rendered views and, where a graph was recorded, the samples or the mesh that they are made of."""

    rgb: Float[Tensor, "batch height width 3"]  # sRGB in [0, 1], in front of the background
    opacity: Float[Tensor, "batch height width 1"]  # in [0, 1]
    depth: Float[Tensor, "batch height width 1"]  # scene units along the ray, times opacity: 0 where empty
    normal: Float[Tensor, "batch height width 3"] | None  # world frame, times opacity; None if not asked for
    samples: PackedSamples | None  # rays numbered through [batch, height, width]; None without gradient
    weights: Float[Tensor, "n"] | None  # of the samples, for regularisers; None without gradient
    mesh: RenderedMesh | None = None  # for regularisers; None without gradient, and of volumes
