"""What a run shows: previews as it goes, and at its end its films or models, curves and a summary."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer

from systems.base import DistillationSystem
from systems.callbacks.performance import Performance, peak_memory_mb, peak_rss_mb
from systems.layout import SUMMARY
from systems.outputs.loggers import log_image, log_mesh, log_video
from systems.outputs.pictures import write_png
from systems.outputs.plots import read_logs, training_curves
from systems.outputs.reports import write_json
from systems.versions import versions

LOGGED_AS = {".mp4": log_video, ".glb": log_mesh, ".png": log_image}


class Previews(Callback):
    """``previews/000100.png``: all particles at that iteration."""

    def __init__(self, every: int, folder: Path) -> None:
        self.every = every  # iterations
        self.folder = folder / "previews"

    def on_train_batch_end(self, trainer: Trainer, system: DistillationSystem, *_: object) -> None:
        iteration = int(system.iteration)
        if trainer.is_global_zero and iteration % self.every == 0:
            path = self.folder / f"{iteration:06d}.png"
            write_png(path, system.scene.preview())
            log_image(trainer, "media/preview", path, iteration)


class Results(Callback):
    """At the end: the files of `Scenes.write_results`, ``curves.png`` and ``summary.json``."""

    def __init__(self, folder: Path, performance: Performance) -> None:
        self.folder = folder
        self.performance = performance

    def on_train_end(self, trainer: Trainer, system: DistillationSystem) -> None:
        if int(system.iteration) == system.iterations and trainer.is_global_zero:
            losses = {name: float(value) for name, value in trainer.callback_metrics.items() if "loss/" in name}
            for path in write_results(system, self.folder, self.performance.seconds, losses):
                if path.suffix in LOGGED_AS:
                    LOGGED_AS[path.suffix](trainer, f"media/{path.stem}", path, int(system.iteration))
        trainer.strategy.barrier("results")


def write_results(
    system: DistillationSystem, folder: Path, seconds: float, losses: dict[str, float] | None = None
) -> list[Path]:
    """All files of a finished run; returns them without the summary.

    Args:
        seconds: that the training took.
        losses: of the last iteration; None where the run was finished before. What its summary knows of the training
            then stays: losses and peaks of memory.
    """
    config, iterations = system.config, int(system.iteration)
    measured = {
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "peak_memory_mb": round(peak_memory_mb(system.device), 1),
        "final_losses": losses or {},
    }
    if losses is None:
        measured |= _measured_before(folder / SUMMARY, iterations, measured)
    files, problems = system.scene.write_results(folder)
    summary = {
        "name": config.name,
        "prompt": config.prompt,
        "seed": config.seed,
        "iterations": iterations,
        "training_seconds": round(seconds, 1),
        "seconds_per_iteration": round(seconds / max(iterations, 1), 4),
        **measured,
        "files": [path.name for path in files],
        "problems": problems,
        "versions": versions(),
    }
    curves = training_curves(read_logs(folder))
    if curves is not None:
        write_png(folder / "curves.png", curves)
    write_json(folder / SUMMARY, summary)
    return files


def _measured_before(path: Path, iterations: int, names: Iterable[str]) -> dict[str, Any]:
    """What a summary of the same number of iterations holds under these names."""
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: earlier[name] for name in names if name in earlier} if earlier.get("iterations") == iterations else {}
