"""The playground: pictures in place of scenes, the fastest way to see what a distillation loss does.

The loop, the losses and the estimator are those of 3D. There is one camera, in front, so that view words and the
estimator's camera condition are constants.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from configs.schema import RunConfig
from models.image import FourierImage
from models.scene import particle_generator
from renderers.cameras import Cameras
from renderers.output import RenderOutput
from systems.base import DistillationSystem
from systems.scenes import Scenes, Surface, orbit


class Pictures(Scenes):
    """n pictures."""

    is_flat = True
    may_be_opaque = True

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        size = config.render.size
        self.particles = nn.ModuleList(
            FourierImage(config.image, size, particle_generator(config.seed, index))
            for index in range(config.particles)
        )

    @torch.no_grad()
    def render_views(self, particle: int, cameras: Cameras, size: int, normals: bool = False) -> RenderOutput:
        """The picture, once for each camera, at its own size."""
        return self.show(particle, len(cameras))

    def show(self, particle: int, count: int) -> RenderOutput:
        """``count`` copies of a picture, with gradient."""
        rgb = self.particles[particle]().expand(count, -1, -1, -1)
        ones = torch.ones_like(rgb[..., :1])
        return RenderOutput(rgb, ones, ones, None, None, None)

    def surface(self, particle: int) -> Surface:
        raise ValueError(
            "stage: a picture has no mesh; use a configuration of a 3D stage, such as configs/vsd-nerf.yaml"
        )

    def backend(self, device: torch.device) -> str:
        return "picture: Fourier transform"


class ImageSystem(DistillationSystem):
    """Text to pictures by score distillation; a view is one more noise for the same picture."""

    stage = "image"
    scenes_class = Pictures
    scene: Pictures
    regularizers = ("reconstruction",)
    advice: ClassVar[dict[str, str]] = {
        "saturated": "a lower guidance.guidance_scale or optimizer.lr_image, or a limit guidance.max_gradient_rms"
    }

    def draw_cameras(self, iteration: int) -> Cameras:
        return orbit(self.config, 1)[torch.zeros(self.config.render.views, dtype=torch.int64)].to(self.device)

    def render_training_views(self, iteration: int, particle: int, cameras: Cameras) -> RenderOutput:
        return self.scene.show(particle, len(cameras))
