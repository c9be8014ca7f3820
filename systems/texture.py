"""Stage 3: colours on the surfaces of stage 2, which stay as they are, by VSD.

A texture field, asked at the points that pixels show, is the only thing that is optimised (and the background,
where it is learnt). The paper starts it from nothing. ``appearance.fit_iterations`` fits it to the radiance
field's colours first: with noise up to half the schedule, a prior improves the colours that it finds, but a
short run has no time to invent them from grey.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from configs.schema import RunConfig
from models.fields import Background, Particles, TextureField
from models.mesh import Surface
from models.mesh_geometry import area_vectors
from models.sdf_field import SDFField
from renderers.mesh_renderer import Shading
from renderers.output import RenderedMesh
from systems.geometry import GeometryParticles
from systems.mesh_scenes import MeshScenes, MeshSystem, rendered
from systems.nerf import hash_grid_groups
from systems.optimizers import ParameterGroup
from systems.seeding import Purpose, particle_generator, stream
from systems.source import load_source

FIT_POINTS = 2**13  # of the surface, an iteration of the fit
FIT_RATE = 1e-2  # Adam's, of the fit


class TextureParticles(MeshScenes):
    """Texture fields, each on a surface that is kept as signed distances."""

    particles: Particles[TextureField]
    backgrounds: Particles[Background]
    surfaces: Particles[SDFField]

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        generators = [particle_generator(config.seed, index) for index in range(config.particles)]
        radius = config.scene.field.radius
        self.particles = Particles(TextureField(config.appearance.field, radius, each) for each in generators)
        self.backgrounds = Particles(Background(config.scene.background, each) for each in generators)
        self.surfaces = SDFField.several(config.surface.field, radius, config.particles).requires_grad_(False)
        self._meshes: dict[int, RenderedMesh] = {}
        self.register_load_state_dict_post_hook(lambda scene, _: scene._meshes.clear())

    def parameter_groups(self) -> list[ParameterGroup]:
        """Hash tables, and the networks of texture fields and backgrounds."""
        networks = [*(each.mlp for each in self.particles), *self.backgrounds]
        return hash_grid_groups(self.config.optimizer, [each.grid for each in self.particles], networks)

    def _apply(self, *arguments, **options) -> TextureParticles:
        self._meshes.clear()
        return super()._apply(*arguments, **options)

    def begin(self, folder: Path | None) -> None:
        """Take over surfaces and backgrounds, and if so configured the colours."""
        device = self.surfaces[0].sdf.device
        source = load_source(self.config, GeometryParticles).to(device)
        self.surfaces.load_state_dict(source.particles.state_dict())
        self._meshes.clear()
        for index, (background, original) in enumerate(zip(self.backgrounds, source.originals, strict=True)):
            background.load_state_dict(original.background.state_dict())
            self.mesh(index)  # raises where the source has no surface
            generator = stream(self.config.seed, 0, Purpose.TEXTURE_FIT, index=index)
            fit(self.particles[index], source.surface(index), self.config.appearance.fit_iterations, generator)

    @torch.no_grad()
    def mesh(self, particle: int) -> RenderedMesh:
        """The surface, found once."""
        if particle not in self._meshes:
            self._meshes[particle] = rendered(*self.surfaces[particle]())
        return self._meshes[particle]

    def shading(self, particle: int) -> Shading:
        return lambda points: self.particles[particle](points.positions)

    def background(self, particle: int) -> Background:
        return self.backgrounds[particle]

    def backend(self, device: torch.device) -> str:
        return f"{super().backend(device)}, hash grid: {self.particles[0].grid.backend_on(device)}"

    def surface(self, particle: int) -> Surface:
        mesh = self.mesh(particle)
        return Surface(mesh.vertices, mesh.faces, self.particles[particle])


class TextureSystem(MeshSystem):
    """Surfaces to textured surfaces."""

    stage = "texture"
    scenes_class = TextureParticles
    regularizers = ("reconstruction",)
    advice: ClassVar[dict[str, str]] = {  # the shape stays as the source made it
        "empty": "(a new run) a source with more matter, or cameras nearer to it",
        "opaque": "(a new run) a smaller source, or cameras farther away",
        "saturated": "a lower guidance.guidance_scale or optimizer.lr_grid, or a limit guidance.max_gradient_rms",
    }


def fit(field: TextureField, surface: Surface, iterations: int, generator: torch.Generator) -> None:
    """Teach a texture field the colours of a surface, at random points of it, by least squares."""
    if iterations == 0:
        return
    areas = torch.linalg.vector_norm(area_vectors(surface.vertices, surface.faces), dim=-1).cpu()
    optimizer = torch.optim.Adam(field.parameters(), lr=FIT_RATE, betas=(0.9, 0.99), eps=1e-15)
    for _ in range(iterations):
        points = random_points(surface, areas, generator)
        with torch.no_grad():
            wanted = surface.color(points)
        loss = (field(points) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def random_points(surface: Surface, areas: Tensor, generator: torch.Generator) -> Tensor:
    """Points ``[n, 3]``, uniform on the surface; ``areas`` are its faces', on the generator's device."""
    face = torch.multinomial(areas, FIT_POINTS, replacement=True, generator=generator)
    # The square root makes barycentric coordinates uniform in a triangle (Turk 1990).
    u, v = torch.rand(2, FIT_POINTS, generator=generator)
    weights = torch.stack([1 - u.sqrt(), u.sqrt() * (1 - v), u.sqrt() * v], dim=-1).to(surface.vertices)
    return (surface.vertices[surface.faces[face.to(surface.faces.device)]] * weights[..., None]).sum(1)
