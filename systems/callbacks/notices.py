"""What a run says while it trains: how long it will take, and that its estimator learns nothing."""

from __future__ import annotations

import time
import warnings

from lightning import Callback, Trainer

from systems.base import DistillationSystem

MEASURED = 20  # iterations whose time tells that of the others
WARM_UP = 3  # iterations before them, which compile and allocate
LEARNS_NOTHING = 0.95  # of estimator/error_ratio, above which VSD does hardly more than CSD
LOOK_EVERY = 10  # iterations: a look makes a GPU wait
LOOKS = 15  # whose mean decides


class Forecast(Callback):
    """After the first iterations, one line: how long the rest will take."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._started = 0.0

    def on_train_batch_end(self, trainer: Trainer, system: DistillationSystem, *_: object) -> None:
        iteration = int(system.iteration)
        if self._first is None:
            self._first = iteration
        done = iteration - self._first
        if done == WARM_UP:
            self._started = time.monotonic()
        elif done == WARM_UP + MEASURED and trainer.is_global_zero:
            seconds = (time.monotonic() - self._started) / MEASURED * (system.iterations - iteration)
            now, later = (system.training_size(at) for at in (iteration, system.iterations - 1))
            larger = f", and longer once views have {later} instead of {now} pixels a side" if later > now else ""
            print(
                f"\nthe remaining {system.iterations - iteration} iterations: {in_words(seconds)}{larger}", flush=True
            )


class EstimatorWatch(Callback):
    """Warns, once, where the estimator doesn't learn the scene: then VSD is CSD at a higher price."""

    def __init__(self) -> None:
        self._looks: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, system: DistillationSystem, *_: object) -> None:
        ratio, iteration = trainer.callback_metrics.get("estimator/error_ratio"), int(system.iteration)
        if ratio is None or iteration % LOOK_EVERY or len(self._looks) > 2 * LOOKS:
            return
        self._looks.append(float(ratio))
        if len(self._looks) != 2 * LOOKS:  # the first half is the time that an estimator needs
            return
        mean = sum(self._looks[LOOKS:]) / LOOKS
        if mean > LEARNS_NOTHING and trainer.is_global_zero:
            warnings.warn(
                f"after {iteration} iterations the estimator's error is still {mean:.2f} of the frozen network's "
                "(estimator/error_ratio), so VSD does hardly more than CSD; raise estimator_optimizer.lr or "
                "estimator_optimizer.steps_per_iteration, or set estimator.layers=all",
                stacklevel=1,
            )


def in_words(seconds: float) -> str:
    """A duration as a person would say it."""
    if seconds < 90:
        return f"about {max(round(seconds), 1)} seconds"
    if seconds < 5400:
        return f"about {round(seconds / 60)} minutes"
    return f"about {seconds / 3600:.1f} hours"
