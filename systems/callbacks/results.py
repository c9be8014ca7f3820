"""What a finished run leaves: a film and a model of each particle (of pictures, two sheets), curves, and a summary."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer

from configs.runs import SUMMARY
from configs.schema import RunConfig
from configs.versions import versions
from files.whole_files import whole_file
from systems.base import DistillationSystem
from systems.callbacks.performance import Performance, peak_memory_mb, peak_rss_mb
from systems.outputs.export import numbered, write_models
from systems.outputs.loggers import log_image, log_mesh, log_video
from systems.outputs.pictures import column, read_png, row, write_png, write_video
from systems.outputs.plots import draw, read_logs
from systems.scenes import Scenes, orbit

FRAMES_AT_ONCE = 4  # bounds the memory of a film's rays
SHEET_COLUMNS = 8  # pictures side by side
STRIP_ROWS = 12  # stages of progress
LOGGED_AS = {".mp4": log_video, ".glb": log_mesh, ".png": log_image}


class Results(Callback):
    """Writes ``turntable.mp4``, ``mesh.glb`` and the like (with a number where there are several), ``curves.png`` and
    ``summary.json``.

    Of pictures, ``pictures.png`` (all of them) and ``progress.png`` (how they came to be, from top to bottom).
    """

    def __init__(self, config: RunConfig, folder: Path, performance: Performance) -> None:
        self.config = config
        self.folder = folder
        self.performance = performance

    def on_train_end(self, trainer: Trainer, system: DistillationSystem) -> None:
        if int(system.iteration) == system.iterations and trainer.is_global_zero:
            losses = {name: float(value) for name, value in trainer.callback_metrics.items() if "loss/" in name}
            for path in write_results(system, self.config, self.folder, self.performance.seconds, losses):
                if path.suffix in LOGGED_AS:
                    LOGGED_AS[path.suffix](trainer, f"media/{path.stem}", path, int(system.iteration))
        trainer.strategy.barrier("results")


def write_results(
    system: DistillationSystem, config: RunConfig, folder: Path, seconds: float, losses: dict[str, float] | None = None
) -> list[Path]:
    """All files of a finished run; returns them without the summary.

    Args:
        seconds: that the training took.
        losses: of the last iteration; None where the run was finished before. What its summary knows of the training
            then stays: losses and peaks of memory.
    """
    measured = {
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "peak_memory_mb": round(peak_memory_mb(system.device), 1),
        "final_losses": losses or {},
    }
    if losses is None:
        measured |= _measured_before(folder / SUMMARY, int(system.iteration), measured)
    problems: list[str] = []
    if system.scene.is_flat:
        files = write_sheets(system.scene, config, folder)
    else:
        files = write_turntables(system.scene, config, folder)
        models, problems = write_models(system.scene, config, folder)
        files += models
    iterations = int(system.iteration)
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
    logged = draw(read_logs(folder))
    if logged is not None:
        write_png(folder / "curves.png", logged)
    write_json(folder / SUMMARY, summary)
    return files


def _measured_before(path: Path, iterations: int, names: Iterable[str]) -> dict[str, Any]:
    """What a summary of the same number of iterations holds under these names."""
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: earlier[name] for name in names if name in earlier} if earlier.get("iterations") == iterations else {}


def write_sheets(scene: Scenes, config: RunConfig, folder: Path) -> list[Path]:
    """All pictures, and a strip of the previews on the way there."""
    cameras, size = orbit(config, 1), config.render.size
    pictures = [scene.render_views(particle, cameras, size).rgb[0] for particle in range(config.particles)]
    rows = [pictures[start : start + SHEET_COLUMNS] for start in range(0, len(pictures), SHEET_COLUMNS)]
    paths = [folder / "pictures.png"]
    write_png(paths[0], column([row(images) for images in rows]))
    previews = sorted((folder / "previews").glob("*.png"))
    if previews:
        shown = [previews[round(i * (len(previews) - 1) / (STRIP_ROWS - 1))] for i in range(STRIP_ROWS)]
        paths.append(folder / "progress.png")
        write_png(paths[1], column([read_png(path) for path in dict.fromkeys(shown)]))
    return paths


def write_turntables(scene: Scenes, config: RunConfig, folder: Path) -> list[Path]:
    """A film all around each particle."""
    paths = []
    for particle in range(config.particles):
        paths.append(numbered(folder, "turntable", particle, config).with_suffix(".mp4"))
        write_video(paths[-1], turntable(scene, particle, config))
    return paths


def turntable(scene: Scenes, particle: int, config: RunConfig) -> torch.Tensor:
    """Frames ``[frames, size, size, 3]`` all around a particle, on the CPU; sizes are rounded up to even."""
    output = config.output
    size = output.turntable_size + output.turntable_size % 2
    cameras = orbit(config, output.turntable_frames)
    parts = [cameras[start : start + FRAMES_AT_ONCE] for start in range(0, len(cameras), FRAMES_AT_ONCE)]
    return torch.cat([scene.render_views(particle, part, size).rgb.cpu() for part in parts])


def write_json(path: Path, content: dict[str, Any]) -> None:
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
