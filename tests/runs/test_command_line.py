"""The command line on real files: two processes, checkpoints that don't fit, a prompt that is too long."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import launch
from configs.load import to_yaml
from configs.sources import CONFIG_FOLDER
from runs.processes import RUN_FOLDER_VARIABLE
from systems.checkpoints import FORMAT
from tests.runs.stubs import files
from tests.systems.tiny_runs import load, tiny_config

RUN = Path("outputs/vsd-nerf/a-red-mug/mine")
VSD = str(CONFIG_FOLDER / "vsd-nerf.yaml")


@pytest.fixture(scope="module")
def two_processes(prior_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """``python launch.py`` on two processes of a CPU, in a folder that holds the configuration and gets the results."""
    place = tmp_path_factory.mktemp("two")
    (place / "tiny.yaml").write_text(to_yaml(tiny_config(prior_folder)))
    command = [sys.executable, str(CONFIG_FOLDER.parent / "launch.py"), "--config", "tiny.yaml", "output.run=mine"]
    command += [f"prior={prior_folder}", "iterations=1", "trainer.accelerator=cpu", "trainer.devices=2"]
    left_out = ("LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", RUN_FOLDER_VARIABLE)
    clean = {name: value for name, value in os.environ.items() if name not in left_out}
    done = subprocess.run(command, cwd=place, env=clean, capture_output=True, text=True, timeout=300)
    done.args = place
    return done


@pytest.fixture
def finished(two_processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that run, in the current folder."""
    shutil.copytree(two_processes.args / RUN, tmp_path / RUN)
    monkeypatch.chdir(tmp_path)
    return RUN


def test_two_processes_make_one_run_and_report_it_once(two_processes) -> None:
    assert two_processes.returncode == 0, two_processes.stdout[-2000:] + two_processes.stderr[-4000:]
    folder = two_processes.args / RUN
    assert {"turntable.mp4", "mesh.glb", "summary.json", "config.yaml"} <= {path.name for path in folder.iterdir()}
    assert load(folder / "checkpoints/last.ckpt")["run"]["iteration"] == 1
    assert two_processes.stdout.count("x 2, precision") == 1
    for line in ("done     1 iterations in ", f"results  {RUN}\nfilms    turntable.mp4\nmodels   mesh.glb\n"):
        assert two_processes.stdout.count(line) == 1
    assert len(list((two_processes.args / "outputs").glob("*/*/*"))) == 1


COMMANDS = {
    "resume": ["--resume", str(RUN)],
    "test": ["--mode", "test", "--checkpoint", str(RUN)],
    "export": ["--mode", "export", "--checkpoint", str(RUN)],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": FORMAT + 1}, f"has format {FORMAT + 1}, this version reads up to {FORMAT}; update the project"),
        ({"config": {"scene": {"field": {"hidden": [99]}}}}, "scene.field.hidden is [99] there and [8] here"),
    ],
    ids=["newer", "other"],
)
def test_a_checkpoint_that_does_not_fit_is_one_message(command, changes, message, finished, tmp_path, capsys) -> None:
    path = finished / "checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["run"] |= changes
    torch.save(checkpoint, path)
    before = files(tmp_path)
    assert launch.main(COMMANDS[command]) == launch.MISTAKE
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ") and "last.ckpt'" in said and message in said
    assert files(tmp_path) == before


def test_a_prompt_that_is_too_long_for_the_bundled_prior(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert launch.main(["--config", VSD, f"prompt={'a red mug ' * 40}", "trainer.accelerator=cpu"]) == launch.MISTAKE
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ") and "tokens" in said
    assert not files(tmp_path)
