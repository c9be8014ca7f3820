"""Training on the pretended device.

    python -m tests.pretended_cuda.runs LIBRARY ANSWER STAGE:LOSS:PRECISION:FAMILY ...

It belongs into a process of its own, which writes JSON to a file: by case the waits of an iteration, by line. Tensors
of two devices in one operation end it with an error.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.pretended_cuda.registration import register


class Enough(Exception):
    """Two iterations are done, with their previews and diagnostics."""


EARLIER = {"geometry": "nerf", "texture": "geometry"}


def earlier_run(stage: str, prior: Path, folder: Path) -> str | None:
    """The checkpoint that a stage goes on from, of runs on the CPU."""
    from runs.train import train
    from tests.systems.tiny_runs import tiny_config, with_output

    if stage not in EARLIER:
        return None
    before, place = EARLIER[stage], folder / EARLIER[stage]
    config = tiny_config(prior, stage=before, iterations=2, source=earlier_run(before, prior, folder))
    place.mkdir()
    train(with_output(config, checkpoint_every=2), place)
    return str(place / "checkpoints/last.ckpt")


def waits_of(case: str, prior: Path, folder: Path) -> dict[str, int]:
    """The waits of the second iteration."""
    from guidance.config import GuidanceConfig, NfsdConfig
    from renderers.config import VolumeRendererConfig
    from runs.train import train
    from systems.base import DistillationSystem
    from tests.pretended_cuda.device import counts, pretended_cuda
    from tests.systems.tiny_runs import tiny_config, with_output

    stage, loss, precision, _ = case.split(":")
    config = tiny_config(
        prior,
        stage=stage,
        guidance=GuidanceConfig(loss=loss, nfsd=NfsdConfig("ugly")),
        source=earlier_run(stage, prior, folder),
    )
    chunks = VolumeRendererConfig(samples_per_ray=8, rays_per_chunk=128)  # several
    config = replace(config, render=replace(config.render, volume=chunks, occupancy_warmup=0))
    config = replace(config, trainer=replace(config.trainer, accelerator="cuda", precision=precision))
    found: dict[str, int] = {}
    step = DistillationSystem.training_step

    def training_step(self: DistillationSystem, batch: int, batch_idx: int) -> None:
        if batch_idx == 2:
            raise Enough
        counts.reset()
        step(self, batch, batch_idx)
        found.clear()
        found.update(counts.waits)

    DistillationSystem.training_step = training_step  # type: ignore[method-assign]
    try:
        with pretended_cuda():
            train(with_output(config, preview_every=1, diagnostics_every=2), folder)
    except Enough:
        pass
    finally:
        DistillationSystem.training_step = step  # type: ignore[method-assign]
    return found


def main(library: str, answer: str, *cases: str) -> None:
    register(Path(library))
    import torch

    from tests import tiny_priors

    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        found = {}
        for number, case in enumerate(cases):
            prior, run = Path(folder, case.rpartition(":")[2]), Path(folder, str(number))
            if not prior.is_dir():
                getattr(tiny_priors, f"save_tiny_{prior.name}")(prior)
            run.mkdir()
            found[case] = waits_of(case, prior, run)
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
