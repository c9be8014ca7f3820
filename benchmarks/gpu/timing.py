"""Durations on a device: by events in its stream, or by the clock on a CPU."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


class Stopwatch:
    """One duration; nothing waits until it is read."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self._start = self._mark()
        self._end: Any = None

    def stop(self) -> Stopwatch:
        self._end = self._mark()
        return self

    def milliseconds(self) -> float:
        if self.on_gpu:
            self._end.synchronize()
            return self._start.elapsed_time(self._end)
        return 1e3 * (self._end - self._start)

    def _mark(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def median_ms(function: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median duration of a call, after two that don't count."""
    for _ in range(2):
        function()
    watches = []
    for _ in range(repeats):
        watch = Stopwatch(device)
        function()
        watches.append(watch.stop())
    return statistics.median(watch.milliseconds() for watch in watches)


class Parts:
    """Durations of methods, by name, over the iterations of a run."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.watches: dict[str, list[Stopwatch]] = {}

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """Time every call of a method of an object."""
        original = getattr(owner, method)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            watch = Stopwatch(self.device)
            result = original(*args, **kwargs)
            self.watches.setdefault(name, []).append(watch.stop())
            return result

        setattr(owner, method, timed)

    def forget(self) -> None:
        self.watches.clear()

    def milliseconds(self, iterations: int) -> dict[str, float]:
        """Of each part, an iteration."""
        return {name: sum(w.milliseconds() for w in found) / iterations for name, found in self.watches.items()}
