"""A run of gloo processes, as a program: Lightning starts the second one by the same command.

python -m tests.systems.two_processes PRIOR FOLDER DEVICES STAGE [SOURCE [CHECKPOINT]]

In the stage geometry the surface of a particle vanishes after the third iteration.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from lightning import Callback

import runs.train
from guidance.config import GuidanceConfig
from runs.train import build_trainer, train
from systems.collapse import CollapseError
from tests.systems.tiny_runs import tiny_config, with_output

VANISHES = 1  # the particle
AFTER = 3  # iterations


class RankFiles(Callback):
    """Each rank's state, what it rendered, the mean gradients of its optimizer, and how it ended, as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer, system, *_) -> None:
        path = self.folder / f"rank-{trainer.global_rank}-{int(system.iteration)}.pt"
        state = system._optimizers()[0].optimizer.state
        content = {
            "state_dict": system.state_dict(),
            "azimuth": system.report.cameras.azimuth_deg,
            "particle": system.report.particle,
            # Of Adam, by parameter; it has none of a particle that no rank has rendered.
            "means": {name: state[each]["exp_avg"] for name, each in system.scene.named_parameters() if each in state},
        }
        torch.save(content, path)
        if system.stage == "geometry" and int(system.iteration) == AFTER:
            system.scene.particles[VANISHES].sdf.data.fill_(1.0)

    def on_exception(self, trainer, system, exception) -> None:
        path = self.folder / f"rank-{trainer.global_rank}-{type(exception).__name__}.txt"
        path.write_text(str(exception), encoding="utf-8")
        torch.distributed.barrier()  # all have come here


def main(prior: str, folder: str, devices: str, stage: str, source: str = "", resume: str = "") -> None:
    config = tiny_config(Path(prior), particles=2, iterations=2, stage=stage, source=source or None)
    if stage == "geometry":
        config = replace(config, name=stage, guidance=GuidanceConfig(loss="sds"))
    config = replace(config, trainer=replace(config.trainer, devices=int(devices)))
    config = with_output(config, checkpoint_every=2, keep_checkpoints=3)

    def watched_trainer(config, folder):
        trainer = build_trainer(config, folder)
        trainer.callbacks.insert(0, RankFiles(folder))
        return trainer

    runs.train.build_trainer = watched_trainer
    try:
        train(config, Path(folder), Path(resume) if resume else None)
    except CollapseError:
        assert stage == "geometry"
    finally:
        runs.train.build_trainer = build_trainer


if __name__ == "__main__":
    main(*sys.argv[1:])
