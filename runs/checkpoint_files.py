"""The checkpoints in a run's folder: which there are, which is the newest, whether the run is finished."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from configs.errors import ConfigError
from configs.schema import RunConfig
from systems.layout import (
    CHECKPOINT_FOLDER,
    CHECKPOINTS,
    CONFIG_FILE,
    NEWEST,
    SUMMARY,
    checkpoint_path,
    iteration_of,
)


def checkpoints(folder: Path) -> list[Path]:
    """A run's checkpoints: other names, then by iteration, then ``last.ckpt``.

    By names, because a copy or a touch changes the times of files.
    """

    def key(path: Path) -> tuple[bool, int, str]:
        iteration = iteration_of(path)
        return path.name == NEWEST, -1 if iteration is None else iteration, path.name

    return sorted((folder / CHECKPOINT_FOLDER).glob(CHECKPOINTS), key=key)


def newest_checkpoint(folder: Path) -> Path | None:
    """``last.ckpt``, which a run renews with every checkpoint; without it, or where it is cut off, the whole one of the
    highest iteration. None of a run without any; where all are cut off, one of those.

    ``last.ckpt`` goes before a higher number: that is of an attempt before the run was resumed from an earlier
    checkpoint, or the run was killed before ``last.ckpt`` followed, and will do that part again.
    """
    found = checkpoints(folder)
    return next((path for path in reversed(found) if is_whole(path)), found[-1] if found else None)


def is_whole(checkpoint: Path) -> bool:
    """Whether a file is a zip archive to its end, where the directory of one stands."""
    return zipfile.is_zipfile(checkpoint)


def was_only_begun(place: Path) -> bool:
    """Whether a folder is that of a run which was killed before its first checkpoint."""
    return (place / CONFIG_FILE).is_file() and not checkpoints(place)


def find_checkpoint(option: str, place: Path) -> tuple[Path, Path]:
    """The run's folder and the checkpoint that a path names: a checkpoint, or a run's folder and its newest.

    Raises:
        ConfigError: no such path, no checkpoint in it, not a run's, or cut off.
    """
    if place.is_dir():
        checkpoint = newest_checkpoint(place)
        if checkpoint is None:
            raise ConfigError(
                f"{option}: {place} holds no {CHECKPOINT_FOLDER}/{CHECKPOINTS}; give a checkpoint or the folder of a "
                "run, such as outputs/vsd-nerf/a-red-mug/2025-01-31_12-00-00"
            )
        folder = place
    elif place.is_file():
        folder, checkpoint = place.absolute().parent.parent, place
    else:
        raise ConfigError(f"{option}: {place} does not exist; give a checkpoint, or the folder of a run")
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(
            f"{option}: {checkpoint} belongs to no run: {folder / CONFIG_FILE} is missing; "
            f"keep checkpoints in the {CHECKPOINT_FOLDER} folder of their run"
        )
    if not is_whole(checkpoint):
        others = [str(path) for path in checkpoints(folder) if not path.samefile(checkpoint)]
        remedy = f"use another: {', '.join(others)}" if others else "the run has no other; start it again"
        raise ConfigError(f"{option}: {checkpoint} is no whole checkpoint: it is cut off or damaged; {remedy}")
    return folder, checkpoint


def is_finished(folder: Path, config: RunConfig) -> bool:
    """Whether a run's last checkpoint and all its results are there; a particle without a surface lacks some."""
    last = checkpoint_path(folder, config.iterations * config.particles)
    summary = folder / SUMMARY
    return last.is_file() and summary.is_file() and not json.loads(summary.read_text(encoding="utf-8")).get("problems")


def has_moved(folder: Path) -> bool:
    """Whether a run has a checkpoint of an iteration; one of its start is written at once."""
    return any(iteration_of(path) for path in checkpoints(folder))
