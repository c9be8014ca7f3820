"""Random points of surfaces with their colours, which a texture field learns before the first step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models.mesh import Surface
from models.mesh_geometry import area_vectors

FIT_POINTS = 2**13  # of a draw

#: Draws points ``[n, 3]`` of a surface, in scene units, and their colours ``[n, 3]``, sRGB in [0, 1].
ColoredPoints = Callable[[torch.Generator], tuple[Tensor, Tensor]]


def surface_colors(surface: Surface) -> ColoredPoints:
    """Random points of a surface with its colours."""
    areas = torch.linalg.vector_norm(area_vectors(surface.vertices, surface.faces), dim=-1).cpu()

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        points = random_points(surface, areas, generator)
        with torch.no_grad():
            return points, surface.color(points)

    return draw


def random_points(surface: Surface, areas: Tensor, generator: torch.Generator) -> Tensor:
    """Points ``[n, 3]``, uniform on the surface; ``areas`` are its faces', on the generator's device."""
    face, weights = random_places(areas, FIT_POINTS, generator)
    corners = surface.vertices[surface.faces[face.to(surface.faces.device)]]
    return (corners * weights.to(surface.vertices)[..., None]).sum(1)


def random_places(areas: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Faces ``[n]`` and barycentric weights ``[n, 3]`` of points that are uniform on a surface."""
    face = torch.multinomial(areas, count, replacement=True, generator=generator)
    # The square root makes barycentric coordinates uniform in a triangle (Turk 1990).
    u, v = torch.rand(2, count, generator=generator)
    return face, torch.stack([1 - u.sqrt(), u.sqrt() * (1 - v), u.sqrt() * v], dim=-1)
