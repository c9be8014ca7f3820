"""Where numbers and media go: CSV always, Weights & Biases beside it if the configuration says so."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from files.whole_files import whole_file

logger = logging.getLogger(__name__)

PROJECT = "prolificdreamer"
WANDB_ID_FILE = "wandb-id.txt"  # in the run's folder
LOG_EVERY = 10  # iterations; short runs log more often


def log_interval(iterations: int) -> int:
    """Iterations between two lines of the logs, for a run of so many (all particles together)."""
    return max(1, min(LOG_EVERY, iterations // 10))


def build_loggers(kind: str, folder: Path, title: str, config: dict[str, Any]) -> list[Logger]:
    """A CSV in ``logs/version_<n>`` (a resumed run opens the next one), and W&B in ``wandb``.

    Args:
        kind: "csv", or "wandb" for both.
        title: the run's name on W&B.
        config: the run's configuration as plain containers, for W&B.
    """
    loggers: list[Logger] = [CSVLogger(folder, name="logs", flush_logs_every_n_steps=1)]
    if kind == "wandb":
        mode = os.environ.get("WANDB_MODE")
        offline = mode == "offline" or (mode != "disabled" and not has_wandb_account())
        if offline and mode != "offline":
            logger.warning("wandb: no account found, so this run is offline; upload it later with `wandb sync`")
        loggers.append(
            WandbLogger(
                name=title[:128],
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                save_dir=folder,
                offline=offline,
                mode="offline" if offline else None,  # the look for an account has read WANDB_MODE already
                config=config,
                id=wandb_id(folder),  # a resumed run goes on as the same one
            )
        )
    return loggers


def wandb_id(folder: Path) -> str:
    """The id of a folder's run on W&B. The folder keeps it, so that it stays where the folder is moved."""
    place = folder / WANDB_ID_FILE
    if place.is_file():
        return place.read_text(encoding="utf-8").strip()
    if (folder / "wandb").is_dir():  # a run from before the folder kept it: then it followed from the path
        found = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    else:
        found = secrets.token_hex(8)
    if rank_zero_only.rank == 0:
        with whole_file(place) as unfinished:
            unfinished.write_text(found + "\n", encoding="utf-8")
    return found


def has_wandb_account() -> bool:
    """Whether W&B knows an API key."""
    import wandb

    return wandb.login(prompt=False, verify=False)  # that looks for a key, and asks nobody


def close_loggers(kind: str) -> None:
    """End the run on W&B, so that another one of this process gets its own."""
    if kind == "wandb":
        import wandb

        wandb.finish()


def log_image(trainer: Trainer, key: str, path: Path, iteration: int) -> None:
    """Show a picture that was written."""
    for target in _wandb_loggers(trainer):
        target.log_image(key, [str(path)], step=iteration)


def log_video(trainer: Trainer, key: str, path: Path, iteration: int) -> None:
    for target in _wandb_loggers(trainer):
        target.log_video(key, [str(path)], step=iteration, format=["mp4"])


def log_mesh(trainer: Trainer, key: str, path: Path, iteration: int) -> None:
    """Show a GLB in three dimensions."""
    import wandb

    for target in _wandb_loggers(trainer):
        target.log_metrics({key: wandb.Object3D(str(path))}, step=iteration)


def _wandb_loggers(trainer: Trainer) -> list[WandbLogger]:
    return [target for target in trainer.loggers if isinstance(target, WandbLogger)] if trainer.is_global_zero else []
