"""A new base-colour texture on a user's own mesh: the same vertices and faces, at the file's place and scale.

Its own texture coordinates are kept where they can hold the texture (`renderers.uv_layout`); else the surface is
unwrapped anew. Vertices are then repeated where charts end, but none moves, and no face goes or changes its number.
Node transforms are baked into the vertices, since instances of one geometry get different colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from models.mesh import TexturedMesh
from models.mesh_file import MeshFile
from models.placement import Placement, between_formats
from renderers.config import BakingConfig
from renderers.texture_baking import Atlas, Color, bake_texture, unwrap
from renderers.uv_layout import uv_layout


@dataclass(frozen=True)
class MeshAtlas:
    """Texture coordinates for a mesh file."""

    atlas: Atlas  # its sources are the file's vertices, its faces in the file's order
    replaced: str | None  # why the file's own coordinates were not kept; None where they were


def mesh_atlas(mesh: MeshFile, config: BakingConfig, keep_uv: bool = True) -> MeshAtlas:
    """The mesh's own coordinates, or a new atlas of its surface.

    Raises:
        ValueError: the surface cannot be unwrapped.
    """
    faces = torch.from_numpy(mesh.faces.copy())
    reason: str | None = "appearance.keep_uv is off"
    if keep_uv:
        reason = "the mesh has no texture coordinates"
        if mesh.uv is not None:
            uv = torch.from_numpy(mesh.uv)
            reason = uv_layout(torch.from_numpy(mesh.vertices)[faces], uv[faces], config.texture_size).problem
            if reason is None:
                return MeshAtlas(Atlas(torch.arange(len(uv)), faces, uv.float().clamp(0, 1)), None)
    return MeshAtlas(_new_atlas(mesh, config), reason)


def _new_atlas(mesh: MeshFile, config: BakingConfig) -> Atlas:
    """An atlas of the surface without the file's seams, whose vertices are the file's again."""
    places, faces = mesh.welded
    size = np.ptp(places, axis=0).max()
    unit = torch.from_numpy((places - places.mean(axis=0)) / size).float()  # xatlas computes in float32
    cut = unwrap(unit, torch.from_numpy(faces.copy()), config.texture_size, config.padding)
    if len(cut.faces) != len(faces):
        raise ValueError(f"faces: xatlas unwrapped {len(cut.faces)} of {len(faces)}; repair the mesh, or give it UVs")
    # A vertex of the result for each pair of a vertex of the file, which has a normal, and one of the atlas.
    pairs = np.stack([mesh.faces.ravel(), cut.faces.numpy().ravel()], axis=1)
    unique, corner = np.unique(pairs, axis=0, return_inverse=True)
    source, atlas_vertex = torch.from_numpy(unique).unbind(1)
    return Atlas(source, torch.from_numpy(corner.reshape(-1, 3)), cut.uv[atlas_vertex])


@torch.no_grad()
def bake_mesh_file(
    mesh: MeshFile, placement: Placement, atlas: Atlas, color: Color, config: BakingConfig
) -> UInt8[Tensor, "size size 3"]:
    """The texture.

    Args:
        color: sRGB in [0, 1] at points in scene units.

    Raises:
        ValueError: a colour that is not finite.
    """
    scene = torch.from_numpy(placement.to_scene(mesh.vertices)).float()
    return bake_texture(scene[atlas.source], atlas, color, config.texture_size)


def textured(mesh: MeshFile, atlas: Atlas, texture: Tensor, suffix: str) -> TexturedMesh:
    """What is written as a file of a format: the mesh's own coordinates, turned where the conventions differ."""
    source = atlas.source.numpy()
    vertices, normals = (in_format(mesh, each[source], suffix) for each in (mesh.vertices, mesh.normals))
    return TexturedMesh(vertices, atlas.faces, normals, atlas.uv, texture)


def in_format(mesh: MeshFile, vectors: Float[np.ndarray, "n 3"], suffix: str) -> Float[Tensor, "n 3"]:
    """Points or directions of a mesh as a file of another suffix has them."""
    return torch.from_numpy(vectors @ between_formats(mesh.path.suffix.lower(), suffix).T).float()
