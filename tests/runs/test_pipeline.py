"""All three stages by one command on a tiny prior, for real: stopped in the middle, gone on with, and exported."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import trimesh
import yaml
from lightning import Callback

import launch
from configs.load import to_yaml
from guidance.config import GuidanceConfig
from runs import train as run
from runs.processes import RUN_FOLDER_VARIABLE
from tests.systems.tiny_runs import assert_same_state, load, tiny_config

STAGES = ("nerf", "geometry", "texture")


@pytest.fixture
def command(prior_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A pipeline of two particles and two iterations a stage."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv(RUN_FOLDER_VARIABLE, "")
    lines = {}
    for stage in STAGES:
        config = tiny_config(prior_folder, stage=stage, name=f"tiny-{stage}", particles=2)
        if stage == "geometry":
            config = replace(config, guidance=GuidanceConfig(loss="sds", guidance_scale=20.0))
        (tmp_path / f"{stage}.yaml").write_text(to_yaml(config))
        lines[stage] = {"config": f"{stage}.yaml"}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"stages": lines}, sort_keys=False))
    return ["--config", "tiny.yaml", f"prior={prior_folder}", "iterations=1", "trainer.accelerator=cpu"]


class StopInGeometry(Callback):
    def on_train_batch_start(self, trainer, system, batch, batch_idx) -> None:
        if system.stage == "geometry" and batch == 0:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_pipeline_stopped_in_the_middle_ends_as_one_that_was_not(command, tmp_path, monkeypatch, capsys) -> None:
    assert launch.main([*command, "output.run=whole"]) == 0
    build_trainer = run.build_trainer

    def interrupted(config, folder):
        trainer = build_trainer(config, folder)
        trainer.callbacks.insert(0, StopInGeometry())
        return trainer

    monkeypatch.setattr(run, "build_trainer", interrupted)
    assert launch.main([*command, "output.run=stopped"]) == launch.INTERRUPTED
    whole, stopped = (tmp_path / "outputs/tiny/a-red-mug" / name for name in ("whole", "stopped"))
    assert load(stopped / "2-geometry/checkpoints/last.ckpt")["run"]["iteration"] == 1
    assert f"--resume {stopped}" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert launch.main(["--resume", str(stopped)]) == 0
    for folder in ("1-nerf", "2-geometry", "3-texture"):
        assert_same_state(*(load(top / folder / "checkpoints/last.ckpt") for top in (whole, stopped)))
        assert (stopped / folder / "mesh-1.glb").is_file() and (stopped / folder / "turntable-0.mp4").is_file()
    assert launch.main(["--mode", "export", "--checkpoint", str(stopped), "export.formats=[ply]"]) == 0
    assert trimesh.load(stopped / "3-texture/export/last/mesh-1.ply").is_watertight
