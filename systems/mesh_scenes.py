"""What the stages geometry and texture have in common: particles with a surface, seen by the mesh renderer."""

from __future__ import annotations

from abc import abstractmethod

import torch

from configs.schema import RunConfig
from models.mesh_geometry import mesh_edges
from renderers.cameras import Cameras
from renderers.mesh_renderer import MeshRenderer, Shading
from renderers.output import RenderedMesh, RenderOutput
from systems.base import DistillationSystem
from systems.collapse import CollapseError
from systems.scenes import Scenes3D, plain_background, training_background
from systems.seeding import Purpose


class MeshScenes(Scenes3D):
    """Particles that are triangles and a function from their points to colours."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.renderer = MeshRenderer(config.render.mesh)

    @abstractmethod
    def mesh(self, particle: int) -> RenderedMesh:
        """The surface, with a graph where the stage optimises it.

        Raises:
            ValueError: it has vanished.
        """

    @abstractmethod
    def shading(self, particle: int) -> Shading:
        """The colours that training shows."""

    @torch.no_grad()
    def render_views(self, particle: int, cameras: Cameras, size: int, normals: bool = False) -> RenderOutput:
        """Views without gradient, in front of the particle's background; they have normals, asked for or not.

        Of a surface that has vanished, the background: the next step of training, or the export, says so.
        """
        device = next(self.parameters()).device
        cameras = cameras.to(device)
        with torch.autocast(device.type, enabled=False):
            background = plain_background(self.config.render, self.background(particle), cameras, size)
            try:
                mesh = self.mesh(particle)
            except ValueError:
                nothing = torch.zeros_like(background)
                return RenderOutput(background, nothing[..., :1], nothing)
            return self.draw(particle, mesh, cameras, size, background)

    def draw(
        self, particle: int, mesh: RenderedMesh, cameras: Cameras, size: int, background: torch.Tensor
    ) -> RenderOutput:
        """Views of a mesh in the particle's colours, with gradient."""
        shade = self.shading(particle)
        return self.renderer.render(mesh.vertices, mesh.faces, shade, cameras, size, size, background, edges=mesh.edges)

    def backend(self, device: torch.device) -> str:
        return f"rasterizer: {self.renderer.rasterizer.backend_on(device)}"


class MeshSystem(DistillationSystem):
    """Text to surfaces by score distillation."""

    scene: MeshScenes

    def render_training_views(self, iteration: int, particle: int, cameras: Cameras) -> RenderOutput:
        """Views in front of the learnt background or a random colour.

        Without autocast: bfloat16 vertices would be off by pixels.
        """
        size = self.training_size(iteration)
        generator = self._stream(Purpose.BACKGROUND, iteration)
        with torch.autocast(self.device.type, enabled=False):
            mesh = self._mesh(iteration, particle)
            self.figures["render/faces"] = float(len(mesh.faces))
            background = training_background(
                self.config.render, self.scene.background(particle), cameras, size, generator
            )
            return self.scene.draw(particle, mesh, cameras, size, background)

    def _mesh(self, iteration: int, particle: int) -> RenderedMesh:
        """This rank's surface; a `CollapseError` on all ranks where one of them has none."""
        mesh, problem = None, None
        try:
            mesh = self.scene.mesh(particle)
        except ValueError as error:
            problem = f"particle {particle} has no surface ({error})"
        problem = self.first_problem(problem)
        if mesh is None or problem is not None:
            raise CollapseError(str(problem), iteration, self.advice["empty"])
        return mesh


def rendered(vertices: torch.Tensor, faces: torch.Tensor, manifold: bool = True) -> RenderedMesh:
    return RenderedMesh(vertices, faces, mesh_edges(faces, manifold))
