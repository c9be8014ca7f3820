"""The playground: pictures in place of scenes, the fastest way to see what a distillation loss does.

The loop, the losses and the estimator are those of 3D. There is one camera, in front, so that view words and the
estimator's camera condition are constants.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from configs.schema import RunConfig
from models.image import FourierImage
from renderers.cameras import Cameras
from renderers.output import RenderOutput
from systems.base import DistillationSystem
from systems.optimizers import ParameterGroup
from systems.outputs.pictures import Picture, column, read_png, row, write_png
from systems.scenes import Scenes
from systems.seeding import particle_generator

SHEET_COLUMNS = 8  # pictures side by side
STRIP_ROWS = 12  # previews of progress


class Pictures(Scenes):
    """n pictures."""

    may_be_opaque = True

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        size = config.render.size
        self.particles = nn.ModuleList(
            FourierImage(config.image, size, particle_generator(config.seed, index))
            for index in range(config.particles)
        )

    def parameter_groups(self) -> list[ParameterGroup]:
        """The pictures' spectra."""
        return [ParameterGroup("image", list(self.particles.parameters()), self.config.optimizer.lr_image)]

    @torch.no_grad()
    def render_views(self, particle: int, cameras: Cameras, size: int, normals: bool = False) -> RenderOutput:
        """The picture, once for each camera, at its own size."""
        return self.show(particle, len(cameras))

    def show(self, particle: int, count: int) -> RenderOutput:
        """``count`` copies of a picture, with gradient."""
        rgb = self.particles[particle]().expand(count, -1, -1, -1)
        ones = torch.ones_like(rgb[..., :1])
        return RenderOutput(rgb, ones, ones)

    def backend(self, device: torch.device) -> str:
        return "picture: Fourier transform"

    def pictures(self) -> list[Picture]:
        """One of each particle."""
        with torch.no_grad():
            return [self.show(particle, 1).rgb[0] for particle in range(self.config.particles)]

    def preview(self) -> Picture:
        """All pictures in one row."""
        return row(self.pictures())

    def test_cameras(self) -> Cameras:
        """One camera: a picture looks the same from everywhere."""
        return self.orbit(1)

    def write_films(self, folder: Path) -> list[Path]:
        """Nothing: nothing moves."""
        return []

    def write_models(self, folder: Path) -> tuple[list[Path], list[str]]:
        """Raises a ValueError: a picture has no surface."""
        raise ValueError(
            "stage: a picture has no mesh; use a configuration of a 3D stage, such as configs/vsd-nerf.yaml"
        )

    def write_results(self, folder: Path) -> tuple[list[Path], list[str]]:
        """``pictures.png``, all of them, and ``progress.png``, the previews on the way there from top to bottom."""
        pictures = self.pictures()
        rows = [pictures[start : start + SHEET_COLUMNS] for start in range(0, len(pictures), SHEET_COLUMNS)]
        paths = [folder / "pictures.png"]
        write_png(paths[0], column([row(images) for images in rows]))
        previews = sorted((folder / "previews").glob("*.png"))
        if previews:
            shown = [previews[round(i * (len(previews) - 1) / (STRIP_ROWS - 1))] for i in range(STRIP_ROWS)]
            paths.append(folder / "progress.png")
            write_png(paths[1], column([read_png(path) for path in dict.fromkeys(shown)]))
        return paths, []


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
        return self.scene.orbit(1)[torch.zeros(self.config.render.views, dtype=torch.int64)].to(self.device)

    def render_training_views(self, iteration: int, particle: int, cameras: Cameras) -> RenderOutput:
        return self.scene.show(particle, len(cameras))
