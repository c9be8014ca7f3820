"""What the stages nerf and geometry take from a user's mesh: its solid, and points with distances and colours."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from models.fields import SURFACE_LAYER
from models.mesh_colors import UNCOLORED, MeshColors
from models.mesh_distance import MeshSolid, solid_of
from models.radiance_fit import KnownPoints
from systems.source import SourceMesh
from systems.surface_points import random_places

NEAR = 2 * SURFACE_LAYER  # of the radius: how far from the surface points have its colours, and half of them lie
POINTS = 2**17  # that a fit draws from
FIT_POINTS = 2**13  # of an iteration


def solid_in_scene(source: SourceMesh) -> MeshSolid:
    """What the mesh encloses, in scene units.

    Raises:
        ValueError: it encloses too little.
    """
    places, faces = source.mesh.welded
    try:
        return solid_of(source.placement.to_scene(places), faces)
    except ValueError as error:
        raise ValueError(f"{source.mesh.path}: {error}") from error


def known_points(
    source: SourceMesh, solid: MeshSolid | None, colors: bool, radius: float, generator: torch.Generator
) -> KnownPoints:
    """Points near the surface, and where distances are wanted as many in the whole cube.

    Args:
        solid: None where colours alone are wanted.
        colors: whether the file's colours are wanted, where it has any; else all are grey.
    """
    near = _near_surface(source, POINTS if solid is None else POINTS // 2, radius, generator)
    points, colored = near, np.ones(len(near))
    if solid is not None:
        everywhere = radius * (2 * torch.rand(POINTS - len(near), 3, generator=generator).numpy() - 1)
        points = np.concatenate([near, everywhere])
        colored = np.append(colored, np.zeros(len(everywhere)))
    distances = None if solid is None else torch.from_numpy(solid.signed_distance(points, radius)).float()
    rgb = torch.full((len(points), 3), UNCOLORED)
    if colors and source.mesh.is_colored:
        rgb[: len(near)] = torch.from_numpy(MeshColors(source.mesh)(source.placement.to_file(near))).float()
    return KnownPoints(torch.from_numpy(points).float(), distances, rgb, torch.from_numpy(colored).float())


def _near_surface(
    source: SourceMesh, count: int, radius: float, generator: torch.Generator
) -> Float[np.ndarray, "count 3"]:
    """Uniform on the surface, then moved by up to ``NEAR`` of the radius along each axis, inside the cube."""
    corners = source.placement.to_scene(source.mesh.vertices)[source.mesh.faces]
    a, b, c = np.moveaxis(corners, 1, 0)
    areas = torch.from_numpy(np.linalg.norm(np.cross(b - a, c - a), axis=1))
    face, weights = (drawn.numpy() for drawn in random_places(areas, count, generator))
    moves = NEAR * radius * (2 * torch.rand(count, 3, generator=generator).numpy() - 1)
    return ((corners[face] * weights[..., None]).sum(axis=1) + moves).clip(-radius, radius)
