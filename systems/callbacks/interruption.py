"""Ctrl-C, SIGTERM, SIGHUP and SIGUSR1: finish the iteration, save, stop. A second Ctrl-C stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from lightning import Callback, Trainer

from systems.base import DistillationSystem
from systems.signals import REQUEUE, stop_signals


class Interruption(Callback):
    """Ends training after the iteration in which a signal came; ``stopping`` says that it did, and ``requeue`` that it
    was the one after which a scheduler's job shall go on. Both are the same on all ranks.

    Stopping inside an iteration would leave theta one step ahead of phi, which no resumed run could
    undo.

    Handlers go back to those that were there before Lightning set its own. Lightning's handler of SIGTERM holds the
    trainer, and with it the networks: it would keep them alive after the run, and swallow the signal.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.stopping = self.requeue = False
        self._found: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._found = {number: signal.getsignal(number) for number in stop_signals()}

    def on_train_start(self, trainer: Trainer, system: DistillationSystem) -> None:
        # Here rather than in setup: Lightning installs its own handlers in between.
        for number in self._found:
            signal.signal(number, self._receive)

    def on_train_batch_end(self, trainer: Trainer, system: DistillationSystem, *_: object) -> None:
        received = self.received
        if self._on_any_rank(trainer, received is not None):
            self.stopping = trainer.should_stop = True
            self.requeue = self._on_any_rank(trainer, received is not None and received.name == REQUEUE)

    def _on_any_rank(self, trainer: Trainer, mine: bool) -> bool:
        """A signal may reach one rank alone."""
        return trainer.strategy.reduce_boolean_decision(mine, all=False) if trainer.world_size > 1 else mine

    def teardown(self, trainer: Trainer, system: DistillationSystem, stage: str) -> None:
        self.release()

    def release(self) -> None:
        """Put back the handlers that were there before the run; to be called after Lightning has put back its own."""
        for number, handler in self._found.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self.release()  # the next signal acts at once
