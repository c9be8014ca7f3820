"""How fast a run is and how much memory it takes."""

from __future__ import annotations

import resource
import sys
import time

import torch
from lightning import Callback, Trainer

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
        every = log_interval(system.config)
        if (batch_idx + 1) % every == 0:  # when Lightning passes on what was logged
            system.log("perf/iterations_per_second", every / max(now - self._lap, 1e-9))
            system.log("perf/peak_memory_mb", peak_memory_mb(system.device))
            self._lap = now

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.seconds = state_dict["seconds"]


def peak_memory_mb(device: torch.device) -> float:
    """Peak of a GPU's allocated memory, or on a CPU of the process's resident memory, in MB (10^6 bytes)."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else peak_rss_mb()


def peak_rss_mb() -> float:
    """Peak resident memory of the process in MB."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
