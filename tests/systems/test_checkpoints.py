"""Checkpoints: whole or absent, few, and refused with a reason where they don't fit."""

from __future__ import annotations

import errno
import io
import os
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from configs.errors import is_disk_error
from systems import checkpoints
from systems.callbacks.checkpoints import Checkpoints, by_age, link
from systems.callbacks.collapse import CollapseDetection
from systems.callbacks.interruption import Interruption
from systems.checkpoints import (
    FORMAT,
    AtomicCheckpointIO,
    check_same_prior,
    check_same_run,
    check_state,
    plain,
    read_checkpoint,
    read_metadata,
    run_metadata,
)

SHAPE = (4, 16, 16)


def written(path: Path, config, **fields) -> Path:
    run = {**vars(run_metadata(config, "nerf", 7, SHAPE)), **fields}
    AtomicCheckpointIO().save_checkpoint({"run": run, "state_dict": {"a": torch.arange(1000.0)}}, path)
    return path


def test_metadata_survive(config, tmp_path) -> None:
    metadata = read_metadata(written(tmp_path / "folder/1.ckpt", config))
    assert metadata == run_metadata(config, "nerf", 7, SHAPE)
    assert metadata.config == plain(config) and metadata.versions["torch"] == version("torch")
    assert metadata.versions["prolificdreamer-lightning"][0].isdigit()  # also where it is run without an installation
    assert os.listdir(tmp_path / "folder") == ["1.ckpt"]
    check_same_run("1.ckpt", metadata, config)
    check_same_prior("1.ckpt", metadata, SHAPE)


def test_a_failed_write_leaves_the_old_file_and_no_other(config, tmp_path) -> None:
    path = written(tmp_path / "1.ckpt", config)
    before = path.read_bytes()

    (tmp_path / "1.ckpt.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        written(path, config)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["1.ckpt"]


class Full(io.FileIO):
    """A file on a disk that has room for so many bytes, and then again."""

    def __init__(self, path: str, mode: str, room: int) -> None:
        super().__init__(path, mode)
        self.room = room

    def write(self, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            self.room = 1 << 30  # somebody else tidied up: closing the file doesn't fail a second time
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize(("numbers", "room"), [(10, 0), (10, 500), (100_000, 500), (3_000_000, 0), (3_000_000, 70_000)])
def test_a_full_disk_is_an_error_of_the_disk_wherever_it_strikes(config, tmp_path, monkeypatch, numbers, room) -> None:
    path = written(tmp_path / "1.ckpt", config)
    before = path.read_bytes()
    monkeypatch.setattr(checkpoints, "open", lambda name, mode: Full(name, mode, room), raising=False)
    with pytest.raises(OSError, match="No space left") as caught:
        AtomicCheckpointIO().save_checkpoint({"numbers": torch.zeros(numbers)}, path)
    assert is_disk_error(caught.value) and caught.value.filename == str(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["1.ckpt"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_truncated_file_is_named(config, tmp_path, share: float) -> None:
    path = written(tmp_path / "1.ckpt", config)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"1\.ckpt' cannot be read: it is cut off or no checkpoint"):
        read_metadata(path)


def test_files_of_another_kind(config, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.ckpt' does not exist"):
        read_metadata(tmp_path / "no.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read"):
        read_metadata(tmp_path / "text.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="not written by this project"):
        read_checkpoint(tmp_path / "other.ckpt")
    torch.save({"run": {}, "model": torch.nn.Linear(1, 1)}, tmp_path / "code.ckpt")
    with pytest.raises(ValueError, match="cannot be read"):
        read_checkpoint(tmp_path / "code.ckpt")
    path = written(tmp_path / "new.ckpt", config, format=FORMAT + 1)
    with pytest.raises(ValueError, match=f"has format {FORMAT + 1}, this version reads up to {FORMAT}; update"):
        read_metadata(path)


def test_other_configurations_are_refused_by_field(config, tmp_path) -> None:
    path = written(tmp_path / "1.ckpt", config)
    metadata = read_metadata(path)
    grid = replace(config.scene.field.grid, levels=5)
    other = replace(
        config, prompt="a blue mug", scene=replace(config.scene, field=replace(config.scene.field, grid=grid))
    )
    with pytest.raises(
        ValueError,
        match=r"prompt is 'a red mug' there and 'a blue mug' here; scene\.field\.grid\.levels is 3 there and 5",
    ):
        check_same_run(path, metadata, other)
    with pytest.raises(ValueError, match="is of stage 'nerf', this run is of stage 'image'"):
        check_same_run(path, metadata, replace(config, stage="image"))
    with pytest.raises(ValueError, match=r"latents are \[4, 16, 16\]; this run's prior has latents \[8, 16, 16\]"):
        check_same_prior(path, metadata, (8, 16, 16))
    check_same_run(path, metadata, replace(config, iterations=99, seed=5))


def test_a_field_that_is_newer_than_a_checkpoint_has_its_default_there(config, tmp_path) -> None:
    path = written(tmp_path / "1.ckpt", config)
    metadata = read_metadata(path)
    del metadata.config["estimator"]["layers"]
    check_same_run(path, metadata, config)
    other = replace(config, estimator=replace(config.estimator, layers="all"))
    with pytest.raises(ValueError, match=r"estimator\.layers is 'attention' there and 'all' here"):
        check_same_run(path, metadata, other)


def test_states_that_do_not_fit_are_refused_by_name() -> None:
    module = torch.nn.Linear(2, 3)
    check_state("x", module.state_dict(), module)
    with pytest.raises(
        ValueError, match=r"bias is missing; more is unknown here; weight has shape \[3, 4\], here \[3, 2\]"
    ):
        check_state("x", {"weight": torch.zeros(3, 4), "more": torch.zeros(1)}, module)


def test_a_second_name_follows_and_outlives_the_first(tmp_path) -> None:
    for content in ("one", "two"):
        (tmp_path / content).write_text(content)
        link(tmp_path / content, tmp_path / "last")
        assert (tmp_path / "last").read_text() == content
    (tmp_path / "two").unlink()
    assert (tmp_path / "last").read_text() == "two"
    assert sorted(os.listdir(tmp_path)) == ["last", "one"]


class FakeTrainer(SimpleNamespace):
    world_size = 1
    is_global_zero = True

    def save_checkpoint(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text("checkpoint")


def run_fake(config, folder: Path, iterations: range, suspicious: bool = False, end: int | None = None) -> Checkpoints:
    detection = CollapseDetection(config.collapse)
    detection.counts = {(0, "empty"): 1} if suspicious else {}
    callback = Checkpoints(config.output, folder, Interruption(), detection)
    trainer, system = FakeTrainer(), SimpleNamespace(iteration=iterations[0], iterations=end or iterations[-1])
    callback.on_train_start(trainer, system)
    for iteration in iterations[1:]:
        system.iteration = iteration
        callback.on_train_batch_end(trainer, system)
    return callback


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("0*.ckpt"))


def touch(path: Path, seconds: float) -> None:
    os.utime(path, (path.stat().st_mtime + seconds,) * 2)


def test_the_last_k_stay(config, tmp_path) -> None:
    config = replace(config, output=replace(config.output, checkpoint_every=2, keep_checkpoints=2))
    run_fake(config, tmp_path, range(0, 8))
    assert names(tmp_path) == ["000006.ckpt", "000007.ckpt"]
    # Going on from an earlier one must not remove what is written next, nor keep the other branch.
    run_fake(config, tmp_path, range(2, 5))
    assert names(tmp_path) == ["000004.ckpt", "000007.ckpt"]
    assert (tmp_path / "checkpoints/last.ckpt").samefile(tmp_path / "checkpoints/000004.ckpt")
    run_fake(config, tmp_path, range(4, 7))
    assert names(tmp_path) == ["000004.ckpt", "000006.ckpt"]


@pytest.mark.parametrize("seconds", [-1e6, 1e6])
def test_the_times_of_files_do_not_decide_which_stay(config, tmp_path, seconds: float) -> None:
    config = replace(config, output=replace(config.output, checkpoint_every=2, keep_checkpoints=2))
    run_fake(config, tmp_path, range(0, 5))
    touch(tmp_path / "checkpoints/000002.ckpt", seconds)
    touch(tmp_path / "checkpoints/000004.ckpt", -seconds)
    run_fake(config, tmp_path, range(4, 7))
    assert names(tmp_path) == ["000004.ckpt", "000006.ckpt"]


def test_the_checkpoint_that_was_just_written_is_never_removed(tmp_path) -> None:
    numbers = (0, 3, 500, 1000, 1_000_000)
    for number in numbers:
        (tmp_path / f"{number:06d}.ckpt").touch()
    (tmp_path / "0-copy.ckpt").touch()  # not the run's own
    for number in numbers:
        order = [int(path.stem) for path in by_age(tmp_path, number)]
        assert order[-1] == number and sorted(order) == list(numbers)
    assert [int(path.stem) for path in by_age(tmp_path, 500)] == [1000, 1_000_000, 0, 3, 500]


def test_minutes_count_too(config, tmp_path) -> None:
    output = replace(config.output, checkpoint_every=1000, checkpoint_minutes=1e-9, keep_checkpoints=9)
    run_fake(replace(config, output=output), tmp_path, range(0, 3))
    assert names(tmp_path) == ["000000.ckpt", "000001.ckpt", "000002.ckpt"]


def test_a_suspicious_scene_pushes_nothing_out_before_the_end(config, tmp_path) -> None:
    output = replace(config.output, checkpoint_every=1, keep_checkpoints=1)
    run_fake(replace(config, output=output), tmp_path, range(0, 4), suspicious=True, end=5)
    assert names(tmp_path) == ["000000.ckpt"]
    # The last one goes with the run's results, and the next stage begins with it.
    run_fake(replace(config, output=output), tmp_path, range(0, 5), suspicious=True, end=4)
    assert names(tmp_path) == ["000004.ckpt"]
