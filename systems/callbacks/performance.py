"""How far a run is, how fast, and how much memory it takes."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from systems.base import DistillationSystem
from systems.outputs.loggers import log_interval


class Performance(Callback):
    """Logs ``perf/``, and counts the seconds of training over all resumed parts of a run."""

    def __init__(self) -> None:
        self.seconds = 0.0  # of training, previews included, in all parts
        self._started = self._lap = time.monotonic()

    def on_train_start(self, trainer: Trainer, system: DistillationSystem) -> None:
        self._started = self._lap = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, system: DistillationSystem, outputs: object, batch: object, batch_idx: int
    ) -> None:
        now = time.monotonic()
        self.seconds += now - self._started
        self._started = now
        every = log_interval(system.iterations)
        if (batch_idx + 1) % every == 0:  # when Lightning passes on what was logged
            system.log("perf/iterations_per_second", every / max(now - self._lap, 1e-9))
            system.log("perf/peak_memory_mb", peak_memory_mb(system.device))
            self._lap = now

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.seconds = state_dict["seconds"]


class Progress(TQDMProgressBar):
    """A bar over the whole run, also where it was resumed: iterations, iterations a second and both losses."""

    def on_train_epoch_start(self, trainer: Trainer, system: DistillationSystem) -> None:
        super().on_train_epoch_start(trainer, system)
        bar = self.train_progress_bar
        bar.set_description("iterations")
        bar.total, bar.initial, bar.n = system.iterations, int(system.iteration), int(system.iteration)

    def on_train_batch_end(
        self, trainer: Trainer, system: DistillationSystem, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, system, outputs, batch, int(system.iteration) - 1)

    def get_metrics(self, trainer: Trainer, system: DistillationSystem) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, system)
        return {name.removeprefix("loss/"): value for name, value in metrics.items() if name != "v_num"}


def peak_memory_mb(device: torch.device) -> float:
    """Peak of a GPU's allocated memory, or on a CPU of the process's resident memory, in MB (10^6 bytes)."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else peak_rss_mb()


def peak_rss_mb() -> float:
    """Peak resident memory of the process in MB."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
