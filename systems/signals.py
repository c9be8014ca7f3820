"""The signals that ask a run to stop: Ctrl-C, SIGTERM (a scheduler, a shutdown), SIGHUP (a terminal that was closed),
SIGUSR1 (SLURM's ``--signal``, before a job's time ends).

While it trains, a run finishes its iteration and saves (``systems/callbacks/interruption.py``). At any other time each
of them acts like Ctrl-C. Nothing here imports PyTorch.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

REQUEUE = "SIGUSR1"  # after which a SLURM job shall go on
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", REQUEUE)


def stop_signals() -> list[signal.Signals]:
    """Those that this system has (Windows lacks two) and that aren't ignored: ``nohup`` ignores SIGHUP."""
    known = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    return [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def stopping_like_ctrl_c() -> Iterator[None]:
    """Within the block each of the signals raises a KeyboardInterrupt.

    Python sets handlers in the main thread only; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in stop_signals()}
    for number in before:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(signal.Signals(number).name)
