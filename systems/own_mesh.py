"""A user's mesh as the surface of the stage texture: kept as it was read, shown in the scene, and painted.

Views show it with its seams joined and its faces turned alike, which silhouettes and normals need. Models are the mesh
itself.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from configs.schema import ExportConfig
from models.mesh import Surface
from models.mesh_colors import MeshColors
from models.mesh_distance import turned_alike
from models.mesh_file import MeshFile
from models.placement import Origin, Placement
from models.stored_mesh import StoredMesh
from renderers.mesh_file_baking import MeshAtlas, mesh_atlas
from renderers.output import RenderedMesh
from systems.mesh_scenes import rendered
from systems.outputs.export import own_mesh_files, told
from systems.source import SourceMesh
from systems.surface_points import FIT_POINTS, ColoredPoints, random_places


class OwnMesh(StoredMesh):
    """The surface of all particles."""

    def __init__(self, path: Path) -> None:
        """Make room for the mesh of a file, which is stored or loaded later."""
        super().__init__()
        self.path = path
        self._atlas: MeshAtlas | None = None

    def store(self, mesh: MeshFile) -> None:
        super().store(mesh)
        self._atlas = None

    def rendered(self, placement: Placement) -> RenderedMesh:
        """The triangles in the scene, in the file's order."""
        places, faces = self.mesh_file(self.path).welded
        vertices = torch.from_numpy(placement.to_scene(places)).float()
        turned = torch.from_numpy(turned_alike(places, faces))
        return rendered(vertices.to(self.vertices.device), turned.to(self.vertices.device), manifold=False)

    def atlas(self, export: ExportConfig, keep_uv: bool) -> MeshAtlas:
        """Texture coordinates, found once for all particles; raises as `mesh_atlas`."""
        if self._atlas is None:
            mesh = self.mesh_file(self.path)
            with told("unwrapping", len(mesh.faces)):
                self._atlas = mesh_atlas(mesh, export.baking(), keep_uv)
        return self._atlas

    def model_files(
        self, surface: Surface, origin: Origin, export: ExportConfig, keep_uv: bool, stem: str, title: str
    ) -> dict[str, bytes]:
        """The files of a particle's model by name: the user's own triangles in the surface's colours."""
        device = surface.vertices.device

        def color(points: Tensor) -> Tensor:
            return surface.color(points.to(device)).cpu()

        atlas = self.atlas(export, keep_uv).atlas
        return own_mesh_files(self.mesh_file(self.path), origin.placement, atlas, color, export, stem, title)


def own_colors(source: SourceMesh, device: torch.device) -> ColoredPoints:
    """Random points of a user's mesh, in scene units, with the file's colours."""
    colors = MeshColors(source.mesh)
    corners = source.placement.to_scene(source.mesh.vertices)[source.mesh.faces]
    a, b, c = np.moveaxis(corners, 1, 0)
    areas = torch.from_numpy(np.linalg.norm(np.cross(b - a, c - a), axis=1))

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        face, weights = (drawn.numpy() for drawn in random_places(areas, FIT_POINTS, generator))
        points = (corners[face] * weights[..., None]).sum(axis=1)
        rgb = colors.at(face, weights.astype(np.float64))
        return torch.from_numpy(points).float().to(device), torch.from_numpy(rgb).float().to(device)

    return draw
