"""Distributed training on two CPU processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from systems.seeding import pick_particles
from tests.systems import two_processes
from tests.systems.tiny_runs import assert_same_state, load
from tests.systems.two_processes import AFTER, VANISHES

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
ITERATIONS = 4


def run_two(prior: Path, folder: Path, stage: str, *more: Path | str) -> None:
    clean = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "WORLD_SIZE", "NODE_RANK")}
    arguments = (prior, folder, 2, stage, *more)
    result = subprocess.run(
        [sys.executable, "-m", "tests.systems.two_processes", *map(str, arguments)],
        cwd=REPOSITORY,
        env=clean,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]


def run_one(prior: Path, folder: Path, *more: Path | str) -> None:
    folder.mkdir()
    two_processes.main(str(prior), str(folder), "1", "nerf", *map(str, more))


@pytest.fixture(scope="module")
def of_two(prior_folder: Path, tmp_path_factory) -> Path:
    """A whole run of the stage nerf in two processes."""
    folder = tmp_path_factory.mktemp("two") / "run"
    run_two(prior_folder, folder, "nerf")
    return folder


@pytest.fixture(scope="module")
def of_one(prior_folder: Path, tmp_path_factory) -> Path:
    """The same run in one process."""
    folder = tmp_path_factory.mktemp("one") / "run"
    run_one(prior_folder, folder)
    return folder


def ranks(folder: Path, iteration: int) -> list[dict[str, Any]]:
    return [load(folder / f"rank-{rank}-{iteration}.pt") for rank in (0, 1)]


def assert_ranks_are_equal_and_render_other_particles_and_cameras(folder: Path, *iterations: int) -> None:
    for iteration in iterations:
        first, second = ranks(folder, iteration)
        assert first["state_dict"].keys() == second["state_dict"].keys()
        different = [
            name for name, tensor in first["state_dict"].items() if not torch.equal(tensor, second["state_dict"][name])
        ]
        assert not different, different
        assert not torch.equal(first["azimuth"], second["azimuth"])
        assert [first["particle"], second["particle"]] == pick_particles(0, iteration - 1, 2, ranks=2)
        assert first["particle"] != second["particle"]


def test_ranks_stay_equal_render_their_own_and_resume(prior_folder: Path, of_two: Path, tmp_path: Path) -> None:
    assert_ranks_are_equal_and_render_other_particles_and_cameras(of_two, 1, ITERATIONS)
    assert (of_two / "turntable-1.mp4").is_file()
    run_two(prior_folder, tmp_path / "resumed", "nerf", "", of_two / "checkpoints/000002.ckpt")
    assert_same_state(*(load(folder / "checkpoints/last.ckpt") for folder in (of_two, tmp_path / "resumed")))


def test_a_particle_moves_as_if_its_rank_were_alone(of_one: Path, of_two: Path) -> None:
    """In a first iteration: its gradient isn't made smaller by ranks that render others."""
    alone, together = load(of_one / "rank-0-1.pt"), ranks(of_two, 1)
    assert alone["particle"] == together[0]["particle"] and torch.equal(alone["azimuth"], together[0]["azimuth"])
    assert alone["means"].keys() < together[0]["means"].keys() == together[1]["means"].keys()
    for name, mean in alone["means"].items():
        # Sums of other lengths of vectors, so not to the last bit.
        torch.testing.assert_close(together[0]["means"][name], mean, rtol=1e-3, atol=1e-5 * float(mean.abs().max()))


def test_a_run_of_two_processes_goes_on_with_one_and_the_reverse(
    prior_folder: Path, of_one: Path, of_two: Path, tmp_path: Path
) -> None:
    """The two iterations left are done, from the state that was saved, as the new number of processes does them."""
    halfway = "checkpoints/000002.ckpt"
    run_one(prior_folder, tmp_path / "one", "", of_two / halfway)
    run_two(prior_folder, tmp_path / "two", "nerf", "", of_one / halfway)
    assert_ranks_are_equal_and_render_other_particles_and_cameras(tmp_path / "two", 3, ITERATIONS)
    for folder, other, before in ((tmp_path / "one", of_one, of_two), (tmp_path / "two", of_two, of_one)):
        assert (folder / "turntable-1.mp4").is_file()
        assert not (folder / "rank-0-2.pt").exists()
        after, saved = load(folder / "checkpoints/last.ckpt"), load(before / halfway)
        assert after["run"]["iteration"] == ITERATIONS
        # Adam counts a particle's steps; in two processes both particles take one an iteration.
        assert steps(after) == [
            done + sum(particle in each for each in picks(2 if other is of_two else 1))
            for particle, done in enumerate(steps(saved))
        ]
        for rank in (0, 1) if other is of_two else (0,):
            seen, uninterrupted = (load(place / f"rank-{rank}-3.pt") for place in (folder, other))
            assert torch.equal(seen["azimuth"], uninterrupted["azimuth"])
            assert seen["particle"] == uninterrupted["particle"]


def picks(ranks: int) -> list[list[int]]:
    """The particles of the iterations after the checkpoint."""
    return [pick_particles(0, iteration, 2, ranks) for iteration in range(2, ITERATIONS)]


def steps(checkpoint: dict[str, Any]) -> list[int]:
    """Of the scene's optimizer, by particle: those of its hash table."""
    scene, _ = checkpoint["optimizer_states"]
    return [int(scene["state"][index]["step"]) if index in scene["state"] else 0 for index in (0, 1)]


def test_a_surface_that_vanishes_on_one_rank_stops_both_with_the_same_words(
    prior_folder: Path, of_two: Path, tmp_path: Path
) -> None:
    run_two(prior_folder, tmp_path / "geometry", "geometry", of_two / "checkpoints/last.ckpt")
    assert_ranks_are_equal_and_render_other_particles_and_cameras(tmp_path / "geometry", 1, 2)
    said = {(tmp_path / f"geometry/rank-{rank}-CollapseError.txt").read_text() for rank in (0, 1)}
    (words,) = said
    assert words.startswith(f"particle {VANISHES} has no surface") and f"at iteration {AFTER};" in words
