"""What a stage optimises (theta), where it begins, and how people and tests look at it: no gradient, no prior."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from configs.schema import RunConfig
from renderers.cameras import Cameras, turntable_cameras
from renderers.output import RenderOutput
from systems.checkpoints import check_state, read_checkpoint


@dataclass(frozen=True)
class Surface:
    """A particle as everything that leaves the program sees it: triangles, and the colour of their points."""

    vertices: Float[Tensor, "vertices 3"]  # scene units, without graph
    faces: Int[Tensor, "faces 3"]  # counter-clockwise seen from outside
    color: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n 3"]]  # sRGB in [0, 1] at points of the surface


class Scenes(nn.Module, ABC):
    """The particles of a stage. A checkpoint's ``scene.*`` is the state of one of these."""

    is_flat = False  # pictures, of which there is neither a film nor a mesh
    may_be_opaque = False  # whether a view without any background is as it should be

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.config = config

    def begin(self, folder: Path | None) -> None:
        """Take over what the source run made, at the start of a new run; without a source there is nothing to do.

        Args:
            folder: where to show what was decided; None: nowhere.

        Raises:
            ValueError, FileNotFoundError: the source doesn't go with this run, or holds nothing to go on from.
        """

    @abstractmethod
    def render_views(self, particle: int, cameras: Cameras, size: int, normals: bool = False) -> RenderOutput:
        """Views of a particle as training shows it, without gradient and without randomness."""

    @abstractmethod
    def surface(self, particle: int) -> Surface:
        """The particle's surface, on the scene's device.

        Raises:
            ValueError: there is none.
        """

    @abstractmethod
    def backend(self, device: torch.device) -> str:
        """The implementation that does the heavy work on a device, in words."""


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


def orbit(config: RunConfig, count: int, elevation_deg: float | None = None) -> Cameras:
    """Evenly spaced cameras at the middle of the training cameras' distances and fields of view."""
    elevation_deg = config.output.turntable_elevation_deg if elevation_deg is None else elevation_deg
    distance, fovy_deg = (sum(bounds) / 2 for bounds in (config.cameras.distance, config.cameras.fovy_deg))
    return turntable_cameras(count, elevation_deg, distance, fovy_deg)
