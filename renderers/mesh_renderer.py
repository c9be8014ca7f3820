"""Mesh renderer: vertices, faces and a function of surface points to images.

It knows no network: what colours the surface is a function of `SurfacePoints`, called once with the points
that all views see. Everything is differentiable: colours in whatever the function depends on, and all images
in the vertices, at silhouettes through antialiasing. Faces are seen from both sides; normals are the
outward ones, interpolated between vertices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from models.mesh_geometry import MeshEdges, mesh_edges, vertex_normals
from renderers.antialias import antialias
from renderers.cameras import Cameras
from renderers.config import MeshRendererConfig
from renderers.output import BackgroundColors, RenderedMesh, RenderOutput, in_front_of
from renderers.rasterizer import Fragments, Rasterizer, ScreenVertices, project


@dataclass(frozen=True)
class SurfacePoints:
    """What pixels see of a surface."""

    positions: Float[Tensor, "n 3"]  # world frame, scene units
    normals: Float[Tensor, "n 3"]  # world frame, outward, unit length
    fragments: Fragments  # pixel, view, face and barycentrics of each point
    faces: Int[Tensor, "faces 3"]

    def interpolate(self, values: Float[Tensor, "vertices channels"]) -> Float[Tensor, "n channels"]:
        """Values at the mesh's vertices, at the points."""
        return self.fragments.interpolate(values, self.faces)


Shading = Callable[[SurfacePoints], Float[Tensor, "n 3"]]


def normal_colors(points: SurfacePoints) -> Float[Tensor, "n 3"]:
    """Normals as colours, from [-1, 1] to [0, 1]: x is red, y green, z blue."""
    return (points.normals + 1) / 2


class MeshRenderer:
    """Renders meshes; holds no state."""

    def __init__(self, config: MeshRendererConfig = MeshRendererConfig()) -> None:
        self.config = config
        self.rasterizer = Rasterizer(config.rasterizer)

    def render(
        self,
        vertices: Float[Tensor, "vertices 3"],
        faces: Int[Tensor, "faces 3"],
        shade: Shading,
        cameras: Cameras,
        height: int,
        width: int,
        background: BackgroundColors,
        edges: MeshEdges | None = None,
    ) -> RenderOutput:
        """Render a batch of views.

        Args:
            shade: sRGB in [0, 1] at points; `normal_colors` shows the geometry.
            background: sRGB in [0, 1], an image or one colour for each view.
            edges: the mesh's, where the caller has them already; computed if None.

        Raises:
            ValueError: a background of another shape, or more than two faces at an edge.
        """
        shape = (len(cameras), height, width)
        screen = project(vertices, cameras, height, width)
        fragments = self.rasterizer.fragments(screen, faces, height, width)
        points = SurfacePoints(
            positions=fragments.interpolate(vertices, faces),
            normals=F.normalize(fragments.interpolate(vertex_normals(vertices, faces), faces), dim=-1, eps=1e-6),
            fragments=fragments,
            faces=faces,
        )
        distance = torch.linalg.vector_norm(points.positions - cameras.c2w[fragments.views, :3, 3], dim=-1)
        edges = mesh_edges(faces) if edges is None else edges
        values = [shade(points).float(), torch.ones_like(distance[:, None]), distance[:, None], points.normals]
        images = _scatter(torch.cat(values, dim=-1), fragments.pixels, shape)
        if self.config.antialias:
            depth = _depth_image(screen, fragments, faces, shape)
            images = antialias(images, depth, screen, faces, edges)
        rgb, opacity, distance, normal = images.split([3, 1, 1, 3], dim=-1)
        mesh = RenderedMesh(vertices, faces, edges) if torch.is_grad_enabled() else None
        return RenderOutput(in_front_of(background, rgb, opacity), opacity, distance, normal, mesh=mesh)


def _depth_image(
    screen: ScreenVertices, fragments: Fragments, faces: Int[Tensor, "faces 3"], shape: tuple[int, int, int]
) -> Float[Tensor, "batch height width"]:
    """Depth along the viewing direction, not differentiable; infinite where nothing is seen."""
    with torch.no_grad():
        corners = screen.depth[fragments.views[:, None], faces[fragments.faces]]
        depth = torch.full((math.prod(shape),), torch.inf, device=corners.device, dtype=corners.dtype)
        return depth.index_copy(0, fragments.pixels, (corners * fragments.barycentrics).sum(-1)).view(shape)


def _scatter(
    values: Float[Tensor, "n channels"], pixels: Int[Tensor, "n"], shape: tuple[int, int, int]
) -> Float[Tensor, "batch height width channels"]:
    """Images with the values at their pixels, and zero elsewhere."""
    batch, height, width = shape
    images = torch.zeros(batch * height * width, values.shape[-1], device=values.device)
    return images.index_copy(0, pixels, values).view(*shape, -1)
