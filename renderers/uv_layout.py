"""Whether a mesh's own texture coordinates can hold a new texture.

A texel may belong to one place of the surface only. So the triangles in the texture's square must lie inside it, must
have an area wherever the surface has one, and must not overlap. Overlaps are counted in texels, as a baker fills them:
each texel's centre is looked up among the faces in their order, and once more in the reverse order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from renderers.rasterizer import Fragments, Rasterizer, ScreenVertices

OUTSIDE = 1e-4  # how far beyond [0, 1] coordinates may lie, by rounding
OVERLAP = 5e-3  # share of the texels in use that may belong to more than one face
FLAT = 1e-3  # share of the surface's area that may have no area in the texture
BORDER = 1e-3  # barycentric weight below which a texel lies on a face's edge, where neighbours share it


@dataclass(frozen=True)
class UVLayout:
    """Properties of texture coordinates."""

    missing: float  # share of the faces without
    outside: float  # how far the farthest coordinate lies beyond [0, 1]
    flat: float  # share of the surface's area whose faces have less than a hundredth of their due in the texture
    overlap: float  # share of the texels in use that belong to more than one face

    @property
    def problem(self) -> str | None:
        """Which property keeps a new texture from using the coordinates; None where all are met."""
        if self.missing > 0:
            return f"{self.missing:.1%} of the faces have no texture coordinates"
        if self.outside > OUTSIDE:
            return f"texture coordinates lie up to {self.outside:.3g} outside [0, 1], where the texture repeats"
        if self.flat > FLAT:
            return f"{self.flat:.1%} of the surface has no area in the texture"
        if self.overlap > OVERLAP:
            return f"{self.overlap:.1%} of the texels in use belong to more than one face"
        return None


@torch.no_grad()
def uv_layout(
    corners: Float[Tensor, "faces 3 3"], uv: Float[Tensor, "faces 3 2"], texture_size: int = 1024
) -> UVLayout:
    """Examine the coordinates of a mesh's corners.

    Args:
        corners: places of the faces' corners, in any unit.
        uv: their texture coordinates, (0, 0) the top left corner; NaN where there are none.
        texture_size: texels along a side of the texture that they shall hold.
    """
    has_uv = uv.isfinite().all(-1).all(-1)
    missing = 1 - has_uv.double().mean().item()
    corners, uv = corners[has_uv].double(), uv[has_uv].double()
    outside = max(0.0, *(edge.max().item() for edge in (-uv, uv - 1))) if len(uv) else 0.0
    a, b = (corners[:, 1:] - corners[:, :1]).unbind(1)
    areas = torch.linalg.vector_norm(torch.linalg.cross(a, b), dim=-1)
    a, b = (uv[:, 1:] - uv[:, :1]).unbind(1)
    uv_areas = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).abs()
    due = areas / areas.sum() * uv_areas.sum()
    flat = (areas[uv_areas <= 0.01 * due].sum() / areas.sum()).item() if len(uv) else 0.0
    overlap = _overlap(uv, texture_size) if len(uv) and outside <= OUTSIDE else 0.0
    return UVLayout(missing, outside, flat, overlap)


def _overlap(uv: Float[Tensor, "faces 3 2"], size: int) -> float:
    """Share of the covered texels that lie inside more than one face, not on the edge that faces share."""
    flat = uv.reshape(1, -1, 2) * size
    faces = torch.arange(flat.shape[1], device=uv.device).view(-1, 3)
    screen = ScreenVertices(flat, torch.ones(flat.shape[:2], dtype=flat.dtype, device=uv.device))
    rasterizer = Rasterizer()
    # Of faces at one depth the rasterizer shows the first: in reverse order, the last.
    first = rasterizer.fragments(screen, faces, size, size)
    last = rasterizer.fragments(screen, faces.flip(0), size, size)
    if len(first.pixels) == 0:
        return 0.0
    differs = first.faces != len(faces) - 1 - last.faces
    return (differs & _is_inside(first) & _is_inside(last)).double().mean().item()


def _is_inside(fragments: Fragments) -> Tensor:
    return fragments.barycentrics.amin(-1) > BORDER
