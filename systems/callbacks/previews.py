"""Pictures of every particle as the run goes."""

from __future__ import annotations

from pathlib import Path

from lightning import Callback, Trainer

from configs.schema import RunConfig
from systems.base import DistillationSystem
from systems.outputs.loggers import log_image
from systems.outputs.pictures import Picture, column, render_strip, row, write_png
from systems.scenes import Scenes, orbit

VIEWS = 2  # front and back: a second face would show


class Previews(Callback):
    """``previews/000100.png``: a row a particle; front and back, each as colour, opacity, normals.

    Of pictures, all in one row.
    """

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder / "previews"

    def on_train_batch_end(self, trainer: Trainer, system: DistillationSystem, *_: object) -> None:
        iteration = int(system.iteration)
        if trainer.is_global_zero and iteration % self.config.output.preview_every == 0:
            path = self.folder / f"{iteration:06d}.png"
            write_png(path, preview(system.scene, self.config))
            log_image(trainer, "media/preview", path, iteration)


def preview(scene: Scenes, config: RunConfig) -> Picture:
    """The picture of all particles."""
    cameras, size = orbit(config, VIEWS), config.render.size
    if scene.is_flat:
        return row([scene.render_views(particle, cameras[:1], size).rgb[0] for particle in range(config.particles)])
    views = (scene.render_views(particle, cameras, size, normals=True) for particle in range(config.particles))
    return column([render_strip(view) for view in views])
