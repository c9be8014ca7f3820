"""The benchmarks' running of prompts: what is skipped, gone on with, and counted where a scene collapsed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import text_to_3d
from configs.load import load_config
from priors.world.classes import CLASSES
from runs.folder import create_run_folder, write_config
from runs.pipeline import begin
from runs.processes import RUN_FOLDER_VARIABLE

CONFIG = "configs/vsd-nerf.yaml"


@pytest.fixture
def launched(monkeypatch) -> SimpleNamespace:
    """The command lines that would have run, and the exit status that they would have had."""
    seen = SimpleNamespace(commands=[], status=0)

    def run(command, **_):
        seen.commands.append(command)
        return SimpleNamespace(returncode=seen.status)

    monkeypatch.setattr(text_to_3d, "subprocess", SimpleNamespace(run=run, STDOUT=subprocess.STDOUT))
    monkeypatch.setenv(RUN_FOLDER_VARIABLE, "")
    return seen


def test_a_prompt_is_run_resumed_or_left_alone(launched, tmp_path) -> None:
    run = tmp_path / "vsd-nerf/a-red-mug/benchmark"
    assert text_to_3d.run_prompt("a red mug", tmp_path, CONFIG, ["particles=1"]) == run
    (command,) = launched.commands
    assert command[:4] == [sys.executable, "launch.py", "--config", CONFIG]
    assert set(command[4:]) == {
        "prompt=a red mug",
        f"output.folder={tmp_path}",
        "output.run=benchmark",
        "particles=1",
    }
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/000100.ckpt").touch()
    write_config(load_config(text_to_3d.REPOSITORY / CONFIG, {"prompt": "a red mug"}).config, run, [])
    text_to_3d.run_prompt("a red mug", tmp_path, CONFIG, ["trainer.threads=1"])
    assert launched.commands[1] == [sys.executable, "launch.py", "--resume", str(run)]
    (run / "summary.json").touch()
    assert text_to_3d.run_prompt("a red mug", tmp_path, CONFIG, []) == run and len(launched.commands) == 2


@pytest.mark.parametrize("config", [CONFIG, "configs/prolific.yaml"])
def test_a_run_with_other_settings_is_not_taken_for_the_one_asked_for(config, launched, tmp_path) -> None:
    values = {"prompt": "a red mug", "output.folder": str(tmp_path), "output.run": "benchmark"}
    if config == CONFIG:
        run = create_run_folder(load_config(text_to_3d.REPOSITORY / CONFIG, values).config)
        write_config(load_config(text_to_3d.REPOSITORY / CONFIG, values).config, run, [])
    else:
        run, _ = begin(text_to_3d.REPOSITORY / config, values, [])
    (run / "summary.json").touch()
    assert text_to_3d.run_prompt("a red mug", tmp_path, config, []) == run  # with the same it is
    with pytest.raises(SystemExit, match=r"other settings:\niterations: \d+ in the run, 7 asked for\nchoose another"):
        text_to_3d.run_prompt("a red mug", tmp_path, config, ["iterations=7"])
    assert not launched.commands


def test_a_collapse_is_a_result_and_anything_else_ends_the_benchmark(launched, tmp_path) -> None:
    launched.status = 3
    assert text_to_3d.run_prompt("a red mug", tmp_path, CONFIG, []) is None
    launched.status = 4  # a pipeline that a missing surface stopped
    assert text_to_3d.run_prompt("a red mug", tmp_path, CONFIG, []) is None
    launched.status = 2
    with pytest.raises(SystemExit, match=r"exit status 2; its output is in .*a-red-mug\.log"):
        text_to_3d.run_prompt("a red mug", tmp_path, CONFIG, [])


def test_several_at_a_time_keep_their_order_and_take_one_thread_each() -> None:
    asked = []

    def run(prompt: str, overrides: list[str]) -> Path:
        asked.append(overrides)
        return Path(prompt)

    assert [str(path) for path in text_to_3d.at_a_time(2, run, list("abcde"))] == list("abcde")
    assert asked == [["trainer.threads=1"]] * 5
    assert list(text_to_3d.at_a_time(1, run, ["a"])) == [Path("a")] and asked[-1] == []


def test_the_prompts_are_one_of_each_class() -> None:
    prompts = text_to_3d.benchmark_prompts()
    assert len(set(prompts)) == len(prompts) == 24
    assert all(any(name in prompt for prompt in prompts) for name in CLASSES)
