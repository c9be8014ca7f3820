"""What prior and estimator believe, from one camera: the first thing to look at when a run disappoints.

Three rows: the frozen prior's own pictures of the prompt, the estimator's pictures of the renders (they
should come to look like the scene), and, for one render, what each makes of it at rising noise levels.
CLIP guidance has no prior that could show what it believes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from lightning import Callback, Trainer

from configs.schema import RunConfig
from guidance.prior import Images
from guidance.sampling import sample_estimator, sample_prior
from guidance.vsd import draw_noise
from renderers.cameras import Cameras
from systems.base import DistillationSystem
from systems.outputs.loggers import log_image
from systems.outputs.pictures import Picture, column, row, write_png
from systems.seeding import Purpose, stream

SAMPLES = 4  # pictures a row
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
        if self.config.guidance.works_on_images:
            return
        for name, picture in (("samples", samples(system)), ("x0", predictions(system))):
            path = self.folder / f"{iteration:06d}-{name}.png"
            write_png(path, picture)
            log_image(trainer, f"media/{name}", path, iteration)


def front_cameras(system: DistillationSystem, count: int) -> Cameras:
    """``count`` times the same camera, in front."""
    return system.scene.orbit(1)[torch.zeros(count, dtype=torch.int64)].to(system.device)


@torch.no_grad()
def samples(system: DistillationSystem) -> Picture:
    """Pictures from the prior (above) and from the estimator (below), from the same camera and noise."""
    guidance, config = system.guidance, system.config
    cameras = front_cameras(system, SAMPLES)
    shared = (STEPS, stream(config.seed, 0, Purpose.DIAGNOSTICS))
    rows = [sample_prior(guidance.prior, system.prompts, cameras, config.guidance.guidance_scale, *shared)]
    if guidance.estimator is not None:
        shared = (STEPS, stream(config.seed, 0, Purpose.DIAGNOSTICS))
        rows.append(sample_estimator(guidance.prior, guidance.estimator, system.prompts, cameras, *shared))
    return column([_row(images) for images in rows])


@torch.no_grad()
def predictions(system: DistillationSystem) -> Picture:
    """A render, then the x_0 that prior (above) and estimator (below) see in it, by rising noise."""
    guidance, schedule = system.guidance, system.guidance.prior.schedule
    camera = front_cameras(system, 1)
    latents = system.encode(system.scene.render_views(0, camera, system.config.render.size).rgb)
    count = len(NOISE_LEVELS)
    t = (torch.tensor(NOISE_LEVELS) * (len(schedule) - 1)).long().to(latents.device)
    noise = draw_noise(latents, stream(system.config.seed, 0, Purpose.DIAGNOSTICS)).expand(count, -1, -1, -1)
    x_t = schedule.add_noise(latents.expand(count, -1, -1, -1), noise, t)
    cameras = front_cameras(system, count)
    texts = system.prompts.for_cameras(cameras)
    clean = [guidance.prior.predict(x_t, t, texts.conditional).x_0]
    if guidance.estimator is not None:
        clean.append(guidance.estimator.predict(guidance.prior, x_t, t, texts.plain, cameras.c2w).x_0)
    decode = guidance.prior.decode_latents
    return column([_row(torch.cat([decode(each) for each in torch.cat([latents, x_0]).split(1)])) for x_0 in clean])


def _row(images: Images) -> Picture:
    """BCHW pictures side by side."""
    return row(list(images.permute(0, 2, 3, 1)))
