"""From a coloured surface to a textured mesh: fewer faces, an atlas, a base-colour texture.

Faces are merged by quadric error (Garland and Heckbert 1997; fast-simplification), the surface is cut into
charts and packed by xatlas, and every texel whose centre lies in a chart asks for the colour at its place on
the surface. The texels between charts take the colour of the nearest baked one, so that neither bilinear
filtering nor mipmaps bring foreign colours in at the seams.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.fields import in_chunks
from models.mesh import TexturedMesh
from models.mesh_geometry import vertex_normals
from models.mesh_repair import split_pinches
from renderers.config import BakingConfig
from renderers.rasterizer import Rasterizer, ScreenVertices

WHOLE = 25_000  # faces; a surface of no more is unwrapped as one piece
PIECE = 5_000  # faces of a piece of a larger one

Color = Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n 3"]]


@torch.no_grad()
def bake(
    vertices: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    color: Color,
    config: BakingConfig = BakingConfig(),
) -> TexturedMesh:
    """A textured mesh of a surface, on the CPU.

    Args:
        color: sRGB in [0, 1] at points; called with points on the device of ``vertices``.

    Raises:
        ValueError: a mesh without faces, or a colour that is not finite.
    """
    if len(faces) == 0:
        raise ValueError("faces: the mesh is empty, there is nothing to bake; train on, or choose another level")
    device = vertices.device
    vertices, faces = simplify(vertices.detach().float().cpu(), faces.cpu(), config.max_faces)
    atlas = unwrap(vertices, faces, config.texture_size, config.padding)
    texture = bake_texture(vertices[atlas.source], atlas, lambda points: color(points.to(device)), config.texture_size)
    normals = vertex_normals(vertices, faces)
    # A vertex whose faces have no area has no normal either, but files must hold unit vectors.
    normals = torch.where(normals.any(-1, keepdim=True), normals, torch.tensor([0.0, 1.0, 0.0]))
    return TexturedMesh(vertices[atlas.source], atlas.faces, normals[atlas.source], atlas.uv, texture)


def simplify(
    vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"], max_faces: int
) -> tuple[Float[Tensor, "fewer_vertices 3"], Int[Tensor, "fewer_faces 3"]]:
    """Merge faces until about ``max_faces`` are left; 0, or a mesh that has no more, changes nothing.

    A closed mesh stays closed, with two faces at every edge.
    """
    if max_faces == 0 or len(faces) <= max_faces:
        return vertices, faces
    import fast_simplification

    fewer_vertices, fewer_faces = fast_simplification.simplify(
        vertices.numpy(), faces.numpy().astype(np.int32), target_count=max_faces
    )
    return split_pinches(torch.from_numpy(fewer_vertices).float(), torch.from_numpy(fewer_faces.astype(np.int64)))


@dataclass(frozen=True)
class Atlas:
    """A surface cut open and laid into the plane."""

    source: Int[Tensor, "cut_vertices"]  # the vertex of the surface that each vertex is a copy of
    faces: Int[Tensor, "faces 3"]  # in the order of the surface's
    uv: Float[Tensor, "cut_vertices 2"]  # in [0, 1]


def unwrap(
    vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"], texture_size: int, padding: int
) -> Atlas:
    """Charts of the surface, packed into a square for a texture of a size.

    A surface of many faces is cut into pieces first: the time that xatlas takes for one rises faster than its faces.
    """
    import xatlas

    packing = xatlas.PackOptions()
    packing.resolution, packing.padding, packing.bilinear = texture_size, padding, True
    atlas = xatlas.Atlas()
    pieces = _pieces(vertices[faces].mean(1).numpy())
    used = []
    for piece in pieces:
        own, renumbered = np.unique(faces.numpy()[piece], return_inverse=True)
        atlas.add_mesh(vertices.numpy()[own], renumbered.reshape(-1, 3).astype(np.uint32))
        used.append(own)
    atlas.generate(pack_options=packing)
    found = [atlas[index] for index in range(len(pieces))]
    firsts = np.cumsum([0, *(len(source) for source, _, _ in found)])
    source = np.concatenate([own[each] for own, (each, _, _) in zip(used, found, strict=True)])
    cut_faces = np.concatenate([each + first for (_, each, _), first in zip(found, firsts, strict=False)])
    if len(cut_faces) == len(faces):
        cut_faces[np.concatenate(pieces)] = cut_faces.copy()  # in the surface's order
    places = np.concatenate([each for _, _, each in found])
    # xatlas meets the resolution only about, in both directions: one scale keeps texels square.
    extent = np.array([atlas.width, atlas.height], np.float32)
    uv = torch.from_numpy(places * (extent / extent.max())).clamp(0, 1)
    return Atlas(torch.from_numpy(source.astype(np.int64)), torch.from_numpy(cut_faces.astype(np.int64)), uv)


def _pieces(middles: Float[np.ndarray, "faces 3"]) -> list[Int[np.ndarray, "n"]]:
    """Faces that lie together, by number, at most ``PIECE`` of them, unless there are few enough for a single piece."""
    if len(middles) <= WHOLE:
        return [np.arange(len(middles))]
    found: list[np.ndarray] = []
    left = [np.arange(len(middles))]
    while left:
        piece = left.pop()
        if len(piece) <= PIECE:
            found.append(piece)
            continue
        axis = np.ptp(middles[piece], axis=0).argmax()
        order = piece[np.argsort(middles[piece, axis], kind="stable")]
        left += [order[len(order) // 2 :], order[: len(order) // 2]]
    return found


def bake_texture(vertices: Float[Tensor, "cut_vertices 3"], atlas: Atlas, color: Color, size: int) -> Tensor:
    """The colour at every texel, uint8 ``[size, size, 3]``."""
    from scipy.ndimage import distance_transform_edt

    screen = ScreenVertices((atlas.uv * size)[None], torch.ones(1, len(atlas.uv)))
    texels = Rasterizer().fragments(screen, atlas.faces, size, size)
    points = texels.interpolate(vertices, atlas.faces)
    colors = in_chunks(color, points, points.device)
    if not colors.isfinite().all():
        raise ValueError(
            f"color: {int((~colors.isfinite()).any(-1).sum())} of {len(colors)} texels are not finite; "
            "the field has diverged: export an earlier checkpoint"
        )
    texture = torch.zeros(size * size, 3)
    texture[texels.pixels] = colors.clamp(0, 1)
    empty = torch.ones(size * size, dtype=torch.bool)
    empty[texels.pixels] = False
    rows, columns = distance_transform_edt(empty.view(size, size).numpy(), return_distances=False, return_indices=True)
    filled = texture.view(size, size, 3)[torch.from_numpy(rows).long(), torch.from_numpy(columns).long()]
    return (filled * 255).round().to(torch.uint8)
