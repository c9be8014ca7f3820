"""What a renderer returns, and the background behind it; images are BHWC."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from models.mesh_geometry import MeshEdges


@dataclass(frozen=True)
class RenderedMesh:
    """The surface that the mesh renderer drew."""

    vertices: Float[Tensor, "vertices 3"]  # scene units
    faces: Int[Tensor, "faces 3"]
    edges: MeshEdges


@dataclass(frozen=True)
class RenderOutput:
    """Rendered views and, where a graph was recorded, what the regularisers read of how they came about."""

    rgb: Float[Tensor, "batch height width 3"]  # sRGB in [0, 1], in front of the background
    opacity: Float[Tensor, "batch height width 1"]  # in [0, 1]
    depth: Float[Tensor, "batch height width 1"]  # scene units along the ray, times opacity: 0 where empty
    normal: Float[Tensor, "batch height width 3"] | None = None  # world frame, times opacity; None if not asked for
    weights: Float[Tensor, "n"] | None = None  # of all samples of all rays; None without gradient, and of meshes
    mesh: RenderedMesh | None = None  # None without gradient, and of volumes

    def detached(self) -> RenderOutput:
        """Colour, opacity and depth without a graph, for those who look at a step after it was taken."""
        return RenderOutput(self.rgb.detach(), self.opacity.detach(), self.depth.detach(), None)


BackgroundColors = Float[Tensor, "batch *image 3"]  # sRGB in [0, 1], an image or one colour for each view


def in_front_of(
    background: BackgroundColors,
    rgb: Float[Tensor, "batch height width 3"],
    opacity: Float[Tensor, "batch height width 1"],
) -> Float[Tensor, "batch height width 3"]:
    """Accumulated (premultiplied) colours in front of a background: rgb + (1 - opacity) background.

    Raises:
        ValueError: a background of another shape.
    """
    batch = len(rgb)
    if background.shape == (batch, 3):
        background = background[:, None, None]
    elif background.shape != rgb.shape:
        raise ValueError(
            f"background: shape {list(background.shape)} is neither {[batch, 3]} (one colour a view) "
            f"nor {list(rgb.shape)} (an image a view)"
        )
    return rgb + (1 - opacity) * background
