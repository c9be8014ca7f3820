"""What a stage optimises (theta), where it starts, and how people and tests look at it: no gradient, no prior.

A representation is a subclass of `Scenes`, mostly of `Scenes3D`. It declares its parameter groups, renders views, and
says what it can show: previews, films, models.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from configs.schema import RenderConfig, RunConfig
from models.fields import Background
from models.mesh import Surface
from models.placement import Origin, Placement
from models.stored_mesh import StoredPlacement
from models.transfer import to_device
from renderers.cameras import Cameras, camera_rays, turntable_cameras
from renderers.output import RenderOutput
from systems.checkpoints import check_state, read_checkpoint
from systems.optimizers import ParameterGroup
from systems.outputs.export import model_files, visible_parts, write_model
from systems.outputs.pictures import Picture, column, render_strip, write_video

logger = logging.getLogger(__name__)

PREVIEW_VIEWS = 2  # front and back: a second face would show
TEST_VIEWS = 8
DIAGNOSTIC_SAMPLES = 4  # pictures that a network draws at once
FRAMES_AT_ONCE = 4  # bounds the memory of a film's rays


class Scenes(nn.Module, ABC):
    """The particles of a stage. A checkpoint's ``scene.*`` is the state of one of these."""

    may_be_opaque = False  # whether a view without any background is as it should be

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.config = config
        self.notes: list[str] = []  # what a user should know of the beginning, once `begin` is done

    def begin(self, folder: Path | None) -> None:
        """Take over what the source run made, at the start of a new run; without a source there is nothing to do.

        Args:
            folder: where to show what was decided; None: nowhere.

        Raises:
            ValueError, FileNotFoundError: the source doesn't go with this run, or holds nothing to go on from.
        """

    @abstractmethod
    def parameter_groups(self) -> list[ParameterGroup]:
        """Every trainable parameter once, with the schedule of its learning rate.

        Checkpoints keep the optimizer's state in this order, so that groups and parameters keep it too.
        """

    @abstractmethod
    def render_views(self, particle: int, cameras: Cameras, size: int, normals: bool = False) -> RenderOutput:
        """Views of a particle as training shows it, without gradient and without randomness."""

    @abstractmethod
    def backend(self, device: torch.device) -> str:
        """The implementation that does the heavy work on a device, in words."""

    @abstractmethod
    def preview(self) -> Picture:
        """All particles at a glance, as training goes."""

    @abstractmethod
    def test_cameras(self) -> Cameras:
        """The views that ``--mode test`` judges and writes."""

    @abstractmethod
    def write_films(self, folder: Path) -> list[Path]:
        """A film of each particle; none where nothing moves."""

    @abstractmethod
    def write_models(self, folder: Path) -> tuple[list[Path], list[str]]:
        """The files of each particle that has a surface, and for each that has none the reason.

        Raises:
            ValueError: no scene of this kind has a surface.
        """

    def write_results(self, folder: Path) -> tuple[list[Path], list[str]]:
        """The files that a finished run leaves: films and models; and the reasons for those that are missing."""
        films = self.write_films(folder)
        models, problems = self.write_models(folder)
        return films + models, problems

    def orbit(self, count: int, elevation_deg: float | None = None) -> Cameras:
        """Evenly spaced cameras at the middle of the training cameras' distances and fields of view.

        Args:
            elevation_deg: None for that of the films.
        """
        elevation_deg = self.config.output.turntable_elevation_deg if elevation_deg is None else elevation_deg
        return turntable_cameras(count, elevation_deg, *self.config.cameras.middle)


class Scenes3D(Scenes):
    """Particles with an inside and an outside, in front of a background."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.placement = None if config.source_mesh.path is None else StoredPlacement()

    @property
    def origin(self) -> Origin | None:
        """The place of the user's mesh that the scene began with, to which models return."""
        path = self.config.source_mesh.path
        if path is None or self.placement is None:
            return None
        return Origin(self.placement.placement, Path(path).suffix.lower())

    def keep_place(self, placement: Placement) -> None:
        """Remember where the user's mesh stands, for models and later stages."""
        assert self.placement is not None, "the configuration names a mesh"
        self.placement.store(placement)

    @abstractmethod
    def background(self, particle: int) -> Background:
        """What lies behind a particle."""

    @abstractmethod
    def surface(self, particle: int) -> Surface:
        """The particle's surface, on the scene's device.

        Raises:
            ValueError: there is none.
        """

    def preview(self) -> Picture:
        """A row for each particle: front and back, each as colour, opacity, normals."""
        output = self.config.output
        cameras, size = self.orbit(PREVIEW_VIEWS), output.preview_size or self.config.render.size
        views = (self.render_views(particle, cameras, size, normals=True) for particle in range(self.config.particles))
        return column([render_strip(view) for view in views])

    def test_cameras(self) -> Cameras:
        """Views all around."""
        return self.orbit(TEST_VIEWS)

    def turntable(self, particle: int) -> Float[Tensor, "frames size size 3"]:
        """The frames of a film all around a particle, on the CPU; sizes are rounded up to even."""
        output = self.config.output
        size = output.turntable_size + output.turntable_size % 2
        cameras = self.orbit(output.turntable_frames)
        parts = [cameras[start : start + FRAMES_AT_ONCE] for start in range(0, len(cameras), FRAMES_AT_ONCE)]
        return torch.cat([self.render_views(particle, part, size).rgb.cpu() for part in parts])

    def write_films(self, folder: Path) -> list[Path]:
        """``turntable.mp4``, or one with a number for each particle."""
        paths = []
        for particle in range(self.config.particles):
            paths.append(self._numbered(folder / "turntable", particle).with_suffix(".mp4"))
            write_video(paths[-1], self.turntable(particle))
        return paths

    def write_models(self, folder: Path) -> tuple[list[Path], list[str]]:
        """``mesh.glb`` and the other formats of ``export``; each particle that has a surface gets its files."""
        paths, problems = [], []
        for particle in range(self.config.particles):
            path = self._numbered(folder / "mesh", particle)
            try:
                paths += write_model(self.model_files(particle, path.name), self.config.export.formats, path)
            except ValueError as error:
                logger.warning("particle %d has no mesh: %s", particle, error)
                problems.append(f"particle {particle} has no mesh: {error}")
        return paths, problems

    def model_files(self, particle: int, stem: str) -> dict[str, bytes]:
        """The files of a particle's model by name.

        Raises:
            ValueError: it has no surface, or colours that are not finite.
        """
        export = self.config.export
        surface = visible_parts(self.surface(particle), export.floater_share, self.may_be_opaque)
        return model_files(surface, export, stem, self.config.prompt, self.origin)

    def _numbered(self, path: Path, particle: int) -> Path:
        """The path, with the particle's number where there are several; without an ending."""
        return path if self.config.particles == 1 else path.with_name(f"{path.name}-{particle}")


def training_background(
    config: RenderConfig, background: Background, cameras: Cameras, size: int, generator: torch.Generator
) -> Float[Tensor, "batch size size 3"]:
    """For each view the learnt background or, with a probability, one random colour."""
    count, device = len(cameras), cameras.c2w.device
    solid = torch.rand(count, generator=generator) < config.random_background
    colors = torch.rand(count, 3, generator=generator)
    colors = config.background_low + (config.background_high - config.background_low) * colors
    all_solid = bool(solid.all())
    solid, colors = (to_device(drawn, device)[:, None, None] for drawn in (solid[:, None], colors))
    if all_solid:
        return colors.expand(count, size, size, 3)
    _, rays_d = camera_rays(cameras, size, size)
    return torch.where(solid, colors, background(rays_d))


def plain_background(
    config: RenderConfig, background: Background, cameras: Cameras, size: int
) -> Float[Tensor, "batch size size 3"]:
    """The learnt background; where training never showed it, the middle of the random colours."""
    _, rays_d = camera_rays(cameras, size, size)
    if config.random_background == 1:
        return torch.full_like(rays_d, (config.background_low + config.background_high) / 2)
    return background(rays_d)


AnyScenes = TypeVar("AnyScenes", bound=Scenes)


def restore(scenes_class: type[AnyScenes], config: RunConfig, checkpoint: Path) -> AnyScenes:
    """A checkpoint's scenes, on the CPU.

    Raises:
        FileNotFoundError, ValueError: the checkpoint cannot be read, or doesn't fit the configuration.
    """
    scenes = scenes_class(config)
    prefix = "scene."
    state = read_checkpoint(checkpoint)["state_dict"]
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    check_state(checkpoint, state, scenes)
    scenes.load_state_dict(state)
    return scenes.eval()
