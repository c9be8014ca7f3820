"""Distributed training on two CPU processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.systems.tiny_runs import assert_same_state, load

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*arguments: Path | str) -> None:
    clean = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "WORLD_SIZE", "NODE_RANK")}
    result = subprocess.run(
        [sys.executable, "-m", "tests.systems.two_processes", *map(str, arguments)],
        cwd=REPOSITORY,
        env=clean,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]


def assert_ranks_are_equal_and_see_their_own_cameras(folder: Path) -> None:
    for iteration in (1, 4):
        first, second = (load(folder / f"rank-{rank}-{iteration}.pt") for rank in (0, 1))
        assert first["state_dict"].keys() == second["state_dict"].keys()
        different = [
            name for name, tensor in first["state_dict"].items() if not torch.equal(tensor, second["state_dict"][name])
        ]
        assert not different, different
        assert not torch.equal(first["azimuth"], second["azimuth"])


@pytest.mark.slow
def test_ranks_stay_equal_see_their_own_cameras_and_resume(prior_folder: Path, tmp_path: Path) -> None:
    whole, resumed, geometry = tmp_path / "whole", tmp_path / "resumed", tmp_path / "geometry"
    run(prior_folder, whole, "nerf")
    assert_ranks_are_equal_and_see_their_own_cameras(whole)
    assert (whole / "turntable-1.mp4").is_file()
    run(prior_folder, resumed, "nerf", "", whole / "checkpoints/000002.ckpt")
    assert_same_state(*(load(folder / "checkpoints/last.ckpt") for folder in (whole, resumed)))
    run(prior_folder, geometry, "geometry", whole / "checkpoints/last.ckpt")
    assert_ranks_are_equal_and_see_their_own_cameras(geometry)
