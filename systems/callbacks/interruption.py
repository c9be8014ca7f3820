"""Ctrl-C and SIGTERM: finish the iteration, save, stop. A second Ctrl-C stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from lightning import Callback, Trainer

from systems.base import DistillationSystem

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption(Callback):
    """Ends training after the iteration in which a signal came; ``stopping`` says that it did.

    Stopping inside an iteration would leave theta one step ahead of phi, which no resumed run could
    undo.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.stopping = False
        self._previous: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, system: DistillationSystem) -> None:
        # Here rather than in setup: Lightning installs its own handlers in between.
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def on_train_batch_end(self, trainer: Trainer, system: DistillationSystem, *_: object) -> None:
        stopping = self.received is not None
        if trainer.world_size > 1:  # a signal may reach one rank alone
            stopping = trainer.strategy.reduce_boolean_decision(stopping, all=False)
        if stopping:
            self.stopping = trainer.should_stop = True

    def teardown(self, trainer: Trainer, system: DistillationSystem, stage: str) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()  # the next signal acts at once

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
