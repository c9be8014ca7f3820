"""Names of the files and folders in a run's folder. Nothing here imports PyTorch."""

from __future__ import annotations

from pathlib import Path

CONFIG_FILE = "config.yaml"
CHECKPOINT_FOLDER = "checkpoints"
CHECKPOINTS = "*.ckpt"
NEWEST = "last.ckpt"  # a run's newest checkpoint, under a second name
SUMMARY = "summary.json"  # what a run writes last


def checkpoint_path(folder: Path, iteration: int) -> Path:
    """The checkpoint of an iteration, in a run's folder.

    >>> checkpoint_path(Path("run"), 500).as_posix()
    'run/checkpoints/000500.ckpt'
    """
    return folder / CHECKPOINT_FOLDER / f"{iteration:06d}.ckpt"


def newest_path(folder: Path) -> Path:
    """The newest checkpoint in a run's folder."""
    return folder / CHECKPOINT_FOLDER / NEWEST


def iteration_of(checkpoint: Path) -> int | None:
    """The iteration in a checkpoint's name; None where the name holds none, as ``last.ckpt``."""
    return int(checkpoint.stem) if checkpoint.stem.isdecimal() else None
