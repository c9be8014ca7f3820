"""Triangle meshes, and their extraction from a density by marching cubes (Lorensen and Cline 1987).

Vertices are in scene units, in the world frame (y up, front towards +z). Faces are counter-clockwise
seen from outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from models.fields import in_chunks


@dataclass(frozen=True)
class Mesh:
    """Triangles with one colour a vertex, on the CPU."""

    vertices: Float[Tensor, "vertices 3"]
    faces: Int[Tensor, "faces 3"]  # int64
    colors: Float[Tensor, "vertices 3"]  # sRGB in [0, 1]


@dataclass(frozen=True)
class TexturedMesh:
    """Triangles with a base-colour texture, on the CPU; vertices are repeated where charts of the texture end."""

    vertices: Float[Tensor, "vertices 3"]
    faces: Int[Tensor, "faces 3"]  # int64
    normals: Float[Tensor, "vertices 3"]  # unit length, the same for the copies of a vertex
    uv: Float[Tensor, "vertices 2"]  # in [0, 1]; as in glTF, (0, 0) is the top left corner of the texture
    texture: UInt8[Tensor, "size size 3"]  # sRGB


@dataclass(frozen=True)
class Surface:
    """A particle as everything that leaves the program sees it: triangles, and the colour of their points."""

    vertices: Float[Tensor, "vertices 3"]  # scene units, without graph
    faces: Int[Tensor, "faces 3"]  # int64
    color: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n 3"]]  # sRGB in [0, 1] at points of the surface


@torch.no_grad()
def extract_mesh(
    density: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]],
    *,
    radius: float,
    level: float,
    bounds: str = "ball",
    resolution: int = 128,
    device: torch.device | str = "cpu",
) -> tuple[Float[Tensor, "vertices 3"], Int[Tensor, "faces 3"]]:
    """The surface where the density crosses ``level`` inside the bounds, closed where it touches them.

    Args:
        density: called with points on ``device``, in scene units.
        radius: of the ball, or half the side of the box.
        bounds: "ball" or "box", the renderer's: outside them the density was never seen, nor trained.
        resolution: density samples along the bounds' diameter.

    Raises:
        ValueError: the density doesn't cross the level; the message names the range that it has.
    """
    from skimage.measure import marching_cubes

    if resolution < 2:
        raise ValueError(f"resolution: {resolution} is too small; use at least 2")
    if bounds not in ("ball", "box"):
        raise ValueError(f"bounds: {bounds!r} is not one of ball, box")
    axis = torch.linspace(-radius, radius, resolution)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(-1, 3)
    values = in_chunks(density, points, device).view(resolution, resolution, resolution)
    outside = (torch.linalg.vector_norm(points, dim=-1) > radius).view_as(values) & (bounds == "ball")
    low, high = values[~outside].min().item(), values[~outside].max().item()
    if not low < level < high:  # NaN fails the comparison too
        raise ValueError(
            f"level: the density never crosses {level:g}; it lies between {low:g} and {high:g}: "
            "choose a level inside that range, or train on if the scene is empty or full"
        )
    # A border below the level closes the surface where the object touches the bounds.
    values[outside] = low
    volume = np.pad(values.numpy(), 1, constant_values=low)
    spacing = 2 * radius / (resolution - 1)
    # "ascent" is what skimage calls faces that are counter-clockwise seen from where the values are lower.
    vertices, faces, _, _ = marching_cubes(volume, level, gradient_direction="ascent")
    vertices = (torch.from_numpy(vertices.copy()).float() - 1) * spacing - radius
    vertices = vertices.clamp(-radius, radius)
    return vertices, torch.from_numpy(faces.astype(np.int64))
