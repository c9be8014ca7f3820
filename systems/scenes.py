"""What a stage optimises (theta), and how people and tests look at it: no gradient, no randomness, no prior."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

from configs.schema import RunConfig
from models.mesh import Mesh
from renderers.cameras import Cameras, turntable_cameras
from renderers.output import RenderOutput


class Scenes(nn.Module, ABC):
    """The particles of a stage. A checkpoint's ``scene.*`` is the state of one of these."""

    is_flat = False  # pictures, of which there is neither a film nor a mesh
    may_be_opaque = False  # whether a view without any background is as it should be

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def render_views(self, particle: int, cameras: Cameras, size: int, normals: bool = False) -> RenderOutput:
        """Views of a particle without gradient and without randomness."""

    @abstractmethod
    def mesh(self, particle: int) -> Mesh:
        """The particle's surface.

        Raises:
            ValueError: there is none.
        """

    @abstractmethod
    def backend(self, device: torch.device) -> str:
        """The implementation that does the heavy work on a device, in words."""


def orbit(config: RunConfig, count: int, elevation_deg: float | None = None) -> Cameras:
    """Evenly spaced cameras at the middle of the training cameras' distances and fields of view."""
    elevation_deg = config.output.turntable_elevation_deg if elevation_deg is None else elevation_deg
    distance, fovy_deg = (sum(bounds) / 2 for bounds in (config.cameras.distance, config.cameras.fovy_deg))
    return turntable_cameras(count, elevation_deg, distance, fovy_deg)
