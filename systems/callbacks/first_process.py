"""Ends the processes of a run whose first process was killed.

They would wait for it in a collective operation, for as long as the process group's timeout. That must be long,
because the first process writes the results while the others wait.
"""

from __future__ import annotations

import os
import sys
import threading
from datetime import timedelta

from lightning import Callback, Trainer
from torch.distributed import TCPStore

from systems.base import DistillationSystem

EVERY = 2.0  # seconds between looks
GRACE = 10.0  # seconds in which a process may still end by itself, with its own message and status
PATIENCE = timedelta(seconds=20)  # for an answer


class FirstProcessWatch(Callback):
    """The first process keeps a store, whose connections the operating system closes when that process dies."""

    def __init__(self) -> None:
        self._store: TCPStore | None = None
        self._over = threading.Event()

    def setup(self, trainer: Trainer, system: DistillationSystem, stage: str) -> None:
        if trainer.world_size == 1:
            return
        host = trainer.strategy.cluster_environment.main_address
        if trainer.is_global_zero:
            self._store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        port = trainer.strategy.broadcast(None if self._store is None else self._store.port)
        if self._store is None:
            store = TCPStore(host, port, is_master=False, timeout=PATIENCE)
            threading.Thread(target=self._watch, args=(store,), name="watch of the first process", daemon=True).start()

    def teardown(self, trainer: Trainer, system: DistillationSystem, stage: str) -> None:
        self._over.set()

    def _watch(self, store: TCPStore) -> None:
        while not self._over.wait(EVERY):
            try:
                store.check(["alive"])  # the answer doesn't matter
            except RuntimeError:  # also its subclass DistNetworkError
                break
        if not self._over.wait(GRACE):
            print("the first process of the run is gone; this one ends", file=sys.stderr, flush=True)
            os._exit(1)  # the main thread may wait for that process forever
