"""Stage 1: particles of radiance fields, seen by the volume renderer.

They start from nothing, or from a user's mesh: densities and, where its file has them, colours are fitted to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from configs.schema import RunConfig, SceneOptimizerConfig
from models.fields import Background, NeRFScene, Particles
from models.hash_grid import HashGrid
from models.mesh import Surface, extract_mesh
from models.radiance_fit import fit_radiance_field
from renderers.cameras import Cameras
from renderers.config import OccupancyConfig
from renderers.output import RenderOutput
from renderers.ray_marching import OccupancyGrid, volume_backend
from renderers.volume import VolumeRenderer
from systems.base import DistillationSystem
from systems.mesh_level import RayExtremes, ray_extremes, silhouette_level
from systems.mesh_start import FIT_POINTS, known_points, solid_in_scene
from systems.optimizers import ParameterGroup
from systems.scenes import Scenes3D, plain_background, training_background
from systems.seeding import Purpose, particle_generator, stream
from systems.source import read_source_mesh

DENSITY_FIT = 400  # iterations, to a user's mesh
LEVEL_VIEWS = 8  # views that decide on the mesh's level
LEVEL_SIZE = 64  # pixels a side of each


class NeRFParticles(Scenes3D):
    """Radiance fields, each with its occupancy grid."""

    particles: Particles[NeRFScene]
    occupancies: Particles[OccupancyGrid]

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.may_be_opaque = config.scene.field.density_init.kind != "object"  # the camera stands inside
        self.particles = self.new_particles()
        occupancy = OccupancyConfig(radius=config.scene.field.radius, resolution=config.render.occupancy_resolution)
        self.occupancies = Particles(OccupancyGrid(occupancy) for _ in range(config.particles))
        self.renderer = VolumeRenderer(config.render.volume)

    def new_particles(self) -> Particles[Any]:
        """A module for each particle: its `field`, a `VolumeField`, and its `background`."""
        return nerf_scenes(self.config)

    def begin(self, folder: Path | None) -> None:
        """Start from a user's mesh, where there is one.

        Raises:
            ValueError: the mesh cannot be used, or encloses too little.
        """
        if not self.config.starts_from_mesh:
            return
        source = read_source_mesh(self.config)
        self.keep_place(source.placement)
        radius, draws = self.config.scene.field.radius, stream(self.config.seed, 0, Purpose.MESH_POINTS)
        known = known_points(source, solid_in_scene(source), self.config.source_mesh.colors, radius, draws)
        for index, particle in enumerate(self.particles):
            generator = stream(self.config.seed, 0, Purpose.MESH_FIT, index=index)
            fit_radiance_field(particle.field, known, iterations=DENSITY_FIT, points=FIT_POINTS, generator=generator)
        self.update_occupancy(0)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Hash tables, and the networks of fields and backgrounds."""
        networks = [network for each in self.particles for network in (each.field.mlp, each.background)]
        return hash_grid_groups(self.config.optimizer, [each.field.grid for each in self.particles], networks)

    def background(self, particle: int) -> Background:
        return self.particles[particle].background

    def update_occupancy(self, iteration: int) -> None:
        """Look where the scenes are dense; the same on all ranks."""
        for index, (particle, occupancy) in enumerate(zip(self.particles, self.occupancies, strict=True)):
            occupancy.update(
                particle.field.density, stream(self.config.seed, iteration, Purpose.OCCUPANCY, index=index)
            )

    @torch.no_grad()
    def render_views(self, particle: int, cameras: Cameras, size: int, normals: bool = False) -> RenderOutput:
        """Views of a particle without gradient or randomness, in front of its own background."""
        scene = self.particles[particle]
        device = self.occupancies[particle].density.device
        cameras = cameras.to(device)
        with torch.autocast(device.type, enabled=False):
            background = plain_background(self.config.render, scene.background, cameras, size)
            return self.renderer.render(
                scene.field,
                self.occupancies[particle],
                cameras,
                size,
                size,
                background,
                normals=scene.field.normals if normals else None,
            )

    def surface(self, particle: int) -> Surface:
        """By marching cubes, at ``output.mesh_level`` or at the level that `systems.mesh_level` finds."""
        output, field = self.config.output, self.particles[particle].field
        device = self.occupancies[particle].density.device
        level = output.mesh_level
        if level is None:
            try:
                level = silhouette_level(self.extremes(particle))
            except ValueError as error:
                raise ValueError(f"{error}: output.mesh_level") from error
        vertices, faces = extract_mesh(
            field.density,
            radius=field.config.radius,
            level=level,
            bounds=self.config.render.volume.bounds,
            resolution=output.mesh_resolution,
            device=device,
        )
        return Surface(vertices.to(device), faces.to(device), field.surface_colors)

    def backend(self, device: torch.device) -> str:
        volume = volume_backend(self.config.render.volume.backend).on(device)
        return f"hash grid: {self.particles[0].field.grid.backend_on(device)}, volume renderer: {volume}"

    def extremes(self, particle: int) -> RayExtremes:
        """What decides on the density of the surface: rays of views all around and of two heights."""
        occupancy = self.occupancies[particle]
        elevations = (self.config.output.turntable_elevation_deg, 0.0)
        views = [self.orbit(LEVEL_VIEWS // 2, elevation) for elevation in elevations]
        extremes = [
            ray_extremes(
                self.particles[particle].field.density,
                occupancy,
                cameras.to(occupancy.density.device),
                LEVEL_SIZE,
                self.config.render.volume,
            )
            for cameras in views
        ]
        return RayExtremes.join(extremes)


def nerf_scenes(config: RunConfig) -> Particles[NeRFScene]:
    """The radiance fields and backgrounds of all particles, each from its own random stream."""
    generators = (particle_generator(config.seed, index) for index in range(config.particles))
    return Particles(NeRFScene(config.scene, generator) for generator in generators)


def hash_grid_groups(
    config: SceneOptimizerConfig, grids: Sequence[HashGrid], networks: Sequence[nn.Module]
) -> list[ParameterGroup]:
    """The groups of fields made of hash grids and small networks, whose scales differ."""
    parameters = [parameter for network in networks for parameter in network.parameters()]
    return [
        ParameterGroup("grid", [grid.table for grid in grids], config.lr_grid),
        ParameterGroup("mlp", parameters, config.lr_mlp),
    ]


class NeRFSystem(DistillationSystem):
    """Text to radiance fields by score distillation."""

    stage = "nerf"
    scenes_class = NeRFParticles
    regularizers = ("entropy", "sparsity", "opacity_binary", "transmittance", "reconstruction")
    advice: ClassVar[dict[str, str]] = {
        "empty": "a lower regularizers.sparsity or optimizer.lr_grid, or (a new run) another seed",
        "opaque": "a higher regularizers.sparsity, a lower optimizer.lr_grid, or (a new run) cameras farther away",
        "saturated": "a lower guidance.guidance_scale or optimizer.lr_mlp, or a limit guidance.max_gradient_rms",
    }
    scene: NeRFParticles

    def prepare(self, iteration: int) -> None:
        """Update the occupancy grids when it is time."""
        render, n = self.config.render, self.config.particles
        if iteration >= render.occupancy_warmup * n and iteration % (render.occupancy_every * n) == 0:
            with torch.autocast(self.device.type, enabled=False):  # the densities that rendering will see
                self.scene.update_occupancy(iteration)

    def render_training_views(self, iteration: int, particle: int, cameras: Cameras) -> RenderOutput:
        """Jittered views in front of the learnt background or a random colour.

        Without autocast: bfloat16 rays would be off by pixels, and compositing is float32's business.
        """
        self.figures["render/occupied"] = self.scene.occupancies[particle].occupied_fraction
        return self.jittered_views(iteration, particle, cameras, self.training_size(iteration))

    def jittered_views(self, iteration: int, particle: int, cameras: Cameras, size: int) -> RenderOutput:
        """Training views of any size."""
        scene, generator = self.scene.particles[particle], self._stream(Purpose.BACKGROUND, iteration)
        with torch.autocast(self.device.type, enabled=False):
            background = training_background(self.config.render, scene.background, cameras, size, generator)
            return self.scene.renderer.render(
                scene.field,
                self.scene.occupancies[particle],
                cameras,
                size,
                size,
                background,
                generator=self._stream(Purpose.RENDER, iteration),
            )
