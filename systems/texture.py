"""Stage 3: colours on the surfaces of stage 2, which stay as they are, by VSD.

A texture field, asked at the points that pixels show, is the only thing that is optimised (and the background,
where it is learnt). The paper starts it from nothing. ``appearance.fit_iterations`` fits it to the radiance
field's colours first: with noise up to half the schedule, a prior improves the colours that it finds, but a
short run has no time to invent them from grey.

A user's mesh may stand in place of stage 2 (`systems.own_mesh`): one mesh for all particles.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch

from configs.schema import RunConfig
from models.fields import Background, Particles, TextureField
from models.mesh import Surface
from models.placement import Origin
from models.sdf_field import SDFField
from renderers.mesh_renderer import Shading
from renderers.output import RenderedMesh
from systems.geometry import GeometryParticles
from systems.mesh_scenes import MeshScenes, MeshSystem, rendered
from systems.nerf import hash_grid_groups
from systems.optimizers import ParameterGroup
from systems.outputs.export import model_files
from systems.own_mesh import OwnMesh, own_colors
from systems.seeding import Purpose, particle_generator, stream
from systems.source import load_source, read_source_mesh
from systems.surface_points import ColoredPoints, surface_colors

FIT_RATE = 1e-2  # Adam's, of the fit


class TextureParticles(MeshScenes):
    """Texture fields, each on a surface that is kept as signed distances."""

    particles: Particles[TextureField]
    backgrounds: Particles[Background]
    surfaces: Particles[SDFField] | OwnMesh

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        generators = [particle_generator(config.seed, index) for index in range(config.particles)]
        radius = config.scene.field.radius
        self.particles = Particles(TextureField(config.appearance.field, radius, each) for each in generators)
        self.backgrounds = Particles(Background(config.scene.background, each) for each in generators)
        self.surfaces = _surfaces(config).requires_grad_(False)
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
        """Take over surfaces and backgrounds, or a user's mesh, and if so configured the colours."""
        if isinstance(self.surfaces, OwnMesh):
            self._begin_with_mesh(self.surfaces)
        else:
            self._begin_with_run(self.surfaces)

    def _begin_with_mesh(self, own: OwnMesh) -> None:
        source = read_source_mesh(self.config)
        own.store(source.mesh)
        self.keep_place(source.placement)
        self._meshes.clear()
        replaced = own.atlas(self.config.export, self.config.appearance.keep_uv).replaced
        if replaced is not None:
            self.notes.append(f"the model gets new texture coordinates: {replaced}")
        if self.config.source_mesh.colors and source.mesh.is_colored:
            draw = own_colors(source, own.vertices.device)
            for index, field in enumerate(self.particles):
                fit(field, draw, self.config.appearance.fit_iterations, self._fit_stream(index))

    def _begin_with_run(self, surfaces: Particles[SDFField]) -> None:
        source = load_source(self.config, GeometryParticles).to(surfaces[0].sdf.device)
        surfaces.load_state_dict(source.particles.state_dict())
        if source.origin is not None:
            self.keep_place(source.origin.placement)
        self._meshes.clear()
        for index, (background, original) in enumerate(zip(self.backgrounds, source.originals, strict=True)):
            background.load_state_dict(original.background.state_dict())
            self.mesh(index)  # raises where the source has no surface
            draw = surface_colors(source.surface(index))
            fit(self.particles[index], draw, self.config.appearance.fit_iterations, self._fit_stream(index))

    def _own_origin(self) -> Origin:
        assert self.origin is not None, "a run that starts from a mesh knows its place"
        return self.origin

    def _fit_stream(self, particle: int) -> torch.Generator:
        return stream(self.config.seed, 0, Purpose.TEXTURE_FIT, index=particle)

    @torch.no_grad()
    def mesh(self, particle: int) -> RenderedMesh:
        """The surface, found once."""
        if particle not in self._meshes:
            if isinstance(self.surfaces, OwnMesh):
                shared = self.surfaces.rendered(self._own_origin().placement)
                self._meshes = dict.fromkeys(range(self.config.particles), shared)
            else:
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

    def model_files(self, particle: int, stem: str) -> dict[str, bytes]:
        """Of a user's mesh its own triangles, all of them; where ``export.faces`` is a number, a simplified copy."""
        if not isinstance(self.surfaces, OwnMesh):
            return super().model_files(particle, stem)
        config, surface = self.config, self.surface(particle)
        if isinstance(config.export.faces, int):
            return model_files(surface, config.export, stem, config.prompt, self.origin)
        keep_uv = config.appearance.keep_uv
        return self.surfaces.model_files(surface, self._own_origin(), config.export, keep_uv, stem, config.prompt)


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


def _surfaces(config: RunConfig) -> Particles[SDFField] | OwnMesh:
    path = config.source_mesh.path
    if config.starts_from_mesh and path is not None:
        return OwnMesh(Path(path))
    return SDFField.several(config.surface.field, config.scene.field.radius, config.particles)


def fit(field: TextureField, draw: ColoredPoints, iterations: int, generator: torch.Generator) -> None:
    """Teach a texture field the colours of a surface, at random points of it, by least squares."""
    optimizer = torch.optim.Adam(field.parameters(), lr=FIT_RATE, betas=(0.9, 0.99), eps=1e-15)
    for _ in range(iterations):
        points, wanted = draw(generator)
        loss = (field(points) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
