"""Stage 2: particles of surfaces, which start from the radiance fields of stage 1.

Signed distances and vertex offsets on a lattice (DMTet) are pulled by SDS; VSD would add nothing at the
resolution of such a mesh. Training shows the surface's normals as colours, as in the paper, or for a prior
that has never seen a normal map the radiance field's colours in a light from above. The radiance fields
stay as they are; their weights lie in the checkpoint too, so that a surface can be shown and exported, and
stage 3 begun, without the run of stage 1.

A user's mesh may stand in place of stage 1: signed distances start from it, and the radiance fields, of which only
the colours are ever asked for, learn the file's. They are grey where it has none.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from configs.schema import RunConfig
from models.fields import Background, NeRFScene, Particles
from models.mesh import Surface
from models.mesh_distance import lattice_distances
from models.radiance_fit import fit_radiance_field
from models.sdf_field import SDFField
from renderers.mesh_renderer import Shading, SurfacePoints, normal_colors
from renderers.output import RenderedMesh, RenderOutput
from systems.mesh_level import RayExtremes, silhouette_level, silhouette_overlaps
from systems.mesh_scenes import MeshScenes, MeshSystem, rendered
from systems.mesh_start import FIT_POINTS, known_points, solid_in_scene
from systems.nerf import NeRFParticles, nerf_scenes
from systems.optimizers import ParameterGroup
from systems.outputs.pictures import Picture, column, row, write_png
from systems.outputs.plots import level_curve
from systems.seeding import Purpose, stream
from systems.source import load_source, read_source_mesh

COLOR_FIT = 200  # iterations, to the colours of a user's mesh
LEVEL_VIEWS = 4  # in level.png
LEVEL_SIZE = 128  # pixels a side of each
RELIEF = 0.3  # how much brighter than a wall a surface that faces up is; below, it is as much darker


class GeometryParticles(MeshScenes):
    """Surfaces, each with the radiance field that it started from."""

    particles: Particles[SDFField]
    originals: Particles[NeRFScene]

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.particles = SDFField.several(config.surface.field, config.scene.field.radius, config.particles)
        self.originals = nerf_scenes(config).requires_grad_(False)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Signed distances and offsets."""
        return [ParameterGroup("geometry", list(self.particles.parameters()), self.config.optimizer.lr_geometry)]

    def begin(self, folder: Path | None) -> None:
        """Start from the level sets of the source's densities, or from a user's mesh.

        Raises:
            ValueError: a density's level set is empty or fragmented (the message names levels that would work), or
                the mesh encloses nothing that the lattice resolves.
        """
        if self.config.starts_from_mesh:
            self._begin_with_mesh()
        else:
            self._begin_with_run(folder)

    def _begin_with_mesh(self) -> None:
        source = read_source_mesh(self.config)
        self.keep_place(source.placement)
        distances = lattice_distances(solid_in_scene(source), self.particles[0].lattice)
        for surface in self.particles:
            surface.start_from(distances)
        radius, draws = self.config.scene.field.radius, stream(self.config.seed, 0, Purpose.MESH_POINTS)
        known = known_points(source, None, self.config.source_mesh.colors, radius, draws)
        for index, original in enumerate(self.originals):
            generator = stream(self.config.seed, 0, Purpose.MESH_FIT, index=index)
            original.requires_grad_(True)
            fit_radiance_field(original.field, known, iterations=COLOR_FIT, points=FIT_POINTS, generator=generator)
            original.requires_grad_(False)

    def _begin_with_run(self, folder: Path | None) -> None:
        """``level.png`` shows how the level sets were chosen."""
        device = self.particles[0].sdf.device
        source = load_source(self.config, NeRFParticles).to(device)
        self.originals.load_state_dict(source.particles.state_dict())
        if source.origin is not None:
            self.keep_place(source.origin.placement)
        pictures = []
        bounds = source.config.render.volume.bounds
        for index, surface in enumerate(self.particles):
            density, rays = source.particles[index].field.density, source.extremes(index)
            where = f"source: particle {index} of {self.config.source}"
            level = self.config.surface.level
            if level is None:
                try:
                    level = silhouette_level(rays)
                except ValueError as error:
                    advice = surface.working_levels(density, bounds=bounds)
                    raise ValueError(f"{where}: {error}: surface.level; {advice}") from error
            try:
                surface.initialize(density, level, bounds=bounds)
            except ValueError as error:
                raise ValueError(f"{where}: {error}; surface.level sets the level") from error
            pictures.append(self._level_picture(index, source, rays, level))
        if folder is not None:
            write_png(folder / "level.png", column(pictures))

    def _level_picture(self, particle: int, source: NeRFParticles, rays: RayExtremes, level: float) -> Picture:
        cameras = self.orbit(LEVEL_VIEWS)
        views, surface = (scenes.render_views(particle, cameras, LEVEL_SIZE) for scenes in (source, self))
        chosen = "chosen" if self.config.surface.level is None else "set by surface.level"
        return level_picture(views, surface, rays, level, f"particle {particle}: density {level:.3g}, {chosen}")

    def mesh(self, particle: int) -> RenderedMesh:
        return rendered(*self.particles[particle]())

    def shading(self, particle: int) -> Shading:
        """Normals as colours, or the radiance field's colours in a light from above (``surface.shading``)."""
        if self.config.surface.shading == "normals":
            return normal_colors
        field = self.originals[particle].field

        def lit(points: SurfacePoints) -> Float[Tensor, "n 3"]:
            # Colours are where they are: the surface is moved by its outline and by the light on it alone.
            with torch.no_grad():
                colors = field(points.positions.detach()).rgb  # as views show them, shapes come out no better
            return (colors * (1 + RELIEF * points.normals[:, 1:2])).clamp(max=1.0)

        return lit

    def background(self, particle: int) -> Background:
        return self.originals[particle].background

    @torch.no_grad()
    def surface(self, particle: int) -> Surface:
        """The surface in the radiance field's colours, whatever training shows."""
        vertices, faces = self.particles[particle]()
        return Surface(vertices, faces, self.originals[particle].field.surface_colors)


def level_picture(views: RenderOutput, surface: RenderOutput, rays: RayExtremes, level: float, caption: str) -> Picture:
    """Why stage 2 starts at this level of the density, and what that surface looks like.

    From top to bottom: the radiance field in colours and as opacity, the surface's normals, the choice of the level.
    """
    assert surface.normal is not None, "views of a mesh have normals"
    rows: list[Tensor] = [views.rgb, views.opacity.expand(-1, -1, -1, 3), surface.normal / 2 + 0.5]
    pictures = [row(list(images)) for images in rows]
    nothing = torch.zeros(0)
    choice = silhouette_overlaps(rays) if (rays.opacity > 0.5).any() else (nothing, nothing)
    return column([*pictures, level_curve(*choice, level, caption, width=pictures[0].shape[1])])


class GeometrySystem(MeshSystem):
    """Radiance fields to surfaces."""

    stage = "geometry"
    scenes_class = GeometryParticles
    regularizers = ("normal_consistency", "laplacian")
    advice: ClassVar[dict[str, str]] = {
        "empty": "a lower optimizer.lr_geometry or guidance.guidance_scale, or (a new run) a source with more matter",
        "opaque": "a lower optimizer.lr_geometry or guidance.guidance_scale, or (a new run) cameras farther away",
        "saturated": "a lower guidance.guidance_scale, or (a new run) a source with other colours",
    }
