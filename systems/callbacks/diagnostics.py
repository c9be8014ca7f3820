"""What the prior and the estimator see, from one camera: the first pictures to look at when a run disappoints.

Three rows: pictures that the frozen prior draws of the prompt, pictures that the estimator draws of the renders (they
should come to look like the scene), and, for one render, the x_0 that each predicts at rising noise levels. A loss
without noise has no such pictures.
"""

from __future__ import annotations

from pathlib import Path

import torch
from lightning import Callback, Trainer

from configs.schema import RunConfig
from guidance.frozen_model import Images
from renderers.cameras import Cameras
from systems.base import DistillationSystem
from systems.outputs.loggers import log_image
from systems.outputs.pictures import Picture, column, row, write_png
from systems.scenes import DIAGNOSTIC_SAMPLES
from systems.seeding import Purpose, stream

STEPS = 12  # of the sampler: enough to recognise things
NOISE_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)  # as fractions of the schedule


class Diagnostics(Callback):
    """``diagnostics/000500-samples.png`` and ``000500-x0.png``, on rank 0."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder / "diagnostics"

    def on_train_batch_end(self, trainer: Trainer, system: DistillationSystem, *_: object) -> None:
        iteration = int(system.iteration)
        if not trainer.is_global_zero or iteration % self.config.output.diagnostics_every:
            return
        for name, rows in (("samples", samples(system)), ("x0", predictions(system))):
            if rows:
                path = self.folder / f"{iteration:06d}-{name}.png"
                write_png(path, column([_row(images) for images in rows]))
                log_image(trainer, f"media/{name}", path, iteration)


def front_cameras(system: DistillationSystem, count: int) -> Cameras:
    """``count`` times the same camera, in front."""
    return system.scene.orbit(1)[torch.zeros(count, dtype=torch.int64)].to(system.device)


def samples(system: DistillationSystem) -> list[Images]:
    """Pictures from the prior, then from the estimator, from the same cameras and noise.

    From the front; a group of views from all sides where the prior sees several at once.
    """
    generator = stream(system.config.seed, 0, Purpose.DIAGNOSTICS)
    together = system.guidance.views_together
    cameras = (
        front_cameras(system, DIAGNOSTIC_SAMPLES) if together == 1 else system.scene.orbit(together).to(system.device)
    )
    return system.guidance.samples(system.prompts, cameras, STEPS, generator)


@torch.no_grad()
def predictions(system: DistillationSystem) -> list[Images]:
    """A render, then the x_0 that the prior sees in it by rising noise; the same for the estimator."""
    camera = front_cameras(system, 1)
    latents = system.encode(system.scene.render_views(0, camera, system.config.render.size).rgb)
    generator = stream(system.config.seed, 0, Purpose.DIAGNOSTICS)
    rows = system.guidance.predictions(latents, system.prompts, camera, NOISE_LEVELS, generator)
    render = system.guidance.decode(latents)
    return [torch.cat([render, clean]) for clean in rows]


def _row(images: Images) -> Picture:
    """BCHW pictures side by side."""
    return row(list(images.permute(0, 2, 3, 1)))
