"""A run of two gloo processes, as a program: Lightning starts the second one by the same command.

python -m tests.systems.two_processes PRIOR FOLDER [CHECKPOINT]
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
from tests.systems.tiny_runs import tiny_config, with_output


class RankFiles(Callback):
    """Each rank's state, and the camera that it saw, as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer, system, *_) -> None:
        path = self.folder / f"rank-{trainer.global_rank}-{int(system.iteration)}.pt"
        content = {"state_dict": system.state_dict(), "azimuth": system.report.cameras.azimuth_deg}
        torch.save(content, path)


def main(prior: str, folder: str, stage: str, source: str = "", resume: str = "") -> None:
    config = tiny_config(Path(prior), particles=2, iterations=2, stage=stage, source=source or None)
    if stage == "geometry":
        config = replace(config, name=stage, guidance=GuidanceConfig(loss="sds"))
    config = replace(config, trainer=replace(config.trainer, devices=2))
    config = with_output(config, checkpoint_every=2, keep_checkpoints=3)

    def watched_trainer(config, folder):
        trainer = build_trainer(config, folder)
        trainer.callbacks.insert(0, RankFiles(folder))
        return trainer

    runs.train.build_trainer = watched_trainer
    train(config, Path(folder), Path(resume) if resume else None)


if __name__ == "__main__":
    main(*sys.argv[1:])
