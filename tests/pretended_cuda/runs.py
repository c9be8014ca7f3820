"""Training on the pretended device.

    python -m tests.pretended_cuda.runs LIBRARY ANSWER STAGE:LOSS:PRECISION:MODEL ...

It belongs into a process of its own, which writes JSON to a file: by case the waits and kernels of an iteration, each
by line. Tensors of two devices in one operation end it with an error.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.pretended_cuda.registration import register

ITERATIONS = {"nerf": 2, "geometry": 2, "texture": 2, "image": 1}  # the last one counts; a first one may prepare
EARLIER = {"geometry": "nerf", "texture": "geometry"}


class Enough(Exception):
    """The iterations are done, with preview and diagnostics."""


@cache
def saved_model(name: str, top: Path) -> Path:
    """A tiny frozen model."""
    from tests import tiny_image_text, tiny_priors

    folder = top / name
    folder.mkdir()
    if name == "clip":
        return tiny_image_text.save_tiny_clip(folder)
    if name == "stable_diffusion_v":
        return tiny_priors.save_tiny_stable_diffusion(folder, "v_prediction")
    return getattr(tiny_priors, f"save_tiny_{name}")(folder)


@cache
def earlier_run(stage: str, top: Path) -> str | None:
    """The checkpoint that a stage goes on from, of runs on the CPU."""
    from runs.train import train
    from tests.systems.tiny_runs import tiny_config, with_output

    if stage not in EARLIER:
        return None
    before, folder = EARLIER[stage], top / f"before-{stage}"
    prior = saved_model("stable_diffusion", top)
    config = tiny_config(prior, stage=before, iterations=1, source=earlier_run(before, top))
    folder.mkdir()
    train(with_output(replace(config, trainer=replace(config.trainer, threads=1)), checkpoint_every=1), folder)
    return str(folder / "checkpoints/last.ckpt")


def counts_of(case: str, top: Path) -> dict[str, dict[str, int]]:
    """The ``waits`` and ``kernels`` of the last iteration."""
    from guidance.config import GuidanceConfig, InversionConfig, NfsdConfig
    from guidance.loading import views_together
    from renderers.config import VolumeRendererConfig
    from runs.train import train
    from systems.base import DistillationSystem
    from systems.callbacks import diagnostics
    from tests.pretended_cuda.device import counts, pretended_cuda
    from tests.systems.tiny_runs import tiny_config, with_output

    stage, loss, precision, name = case.split(":")
    model, source = saved_model(name, top), earlier_run(stage, top)
    if loss == "clip":
        guidance = GuidanceConfig(loss=loss, guidance_scale=1.0, clip_model=str(model))
    else:
        guidance = GuidanceConfig(loss=loss, nfsd=NfsdConfig("ugly"), inversion=InversionConfig(steps=2))
    config = tiny_config(model, stage=stage, guidance=guidance, source=source)
    volume = VolumeRendererConfig(samples_per_ray=8, rays_per_chunk=128)  # several chunks
    views = 1 if loss == "clip" else views_together(model)
    config = replace(config, render=replace(config.render, volume=volume, occupancy_warmup=0, views=views))
    config = replace(config, trainer=replace(config.trainer, accelerator="cuda", precision=precision, threads=1))
    last = ITERATIONS[stage]
    config = with_output(config, preview_every=last)
    if loss == "vsd" and stage in ("nerf", "image"):  # of the other stages and losses they are the same
        config = with_output(config, diagnostics_every=last)
    found: dict[str, dict[str, int]] = {}
    step = DistillationSystem.training_step

    def training_step(self: DistillationSystem, batch: int, batch_idx: int) -> None:
        if batch_idx == last:
            raise Enough
        counts.reset()
        step(self, batch, batch_idx)
        found.update(waits=dict(counts.waits), kernels=dict(counts.kernels))

    DistillationSystem.training_step = training_step  # type: ignore[method-assign]
    diagnostics.STEPS = 2  # all do the same
    folder = top / case.replace(":", "-")
    folder.mkdir()
    try:
        with pretended_cuda():
            train(config, folder)
    except Enough:
        pass
    finally:
        DistillationSystem.training_step = step  # type: ignore[method-assign]
    return found


def main(library: str, answer: str, *cases: str) -> None:
    register(Path(library))
    with TemporaryDirectory() as folder:
        found = {case: counts_of(case, Path(folder)) for case in cases}
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
