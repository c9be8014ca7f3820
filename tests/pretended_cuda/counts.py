"""What happened on the pretended device, by the line of the project that asked for it."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType

import torch

ROOT = Path(__file__).resolve().parents[2]
HERE = str(Path(__file__).resolve().parent)
LOOP = "systems/base.py"  # what calls backward passes
ITERATION, LOGGING = "training_step", "_log"  # the functions of `systems.base` that do and that log an iteration


@dataclass
class Counts:
    """Of the kernels that iterations launched, and of the times that the host waited for the device; logging apart.

    A kernel of a backward pass counts for the line of the forward pass whose derivative it is.
    """

    kernels: Counter[str] = field(default_factory=Counter)  # by name and line
    waits: Counter[str] = field(default_factory=Counter)  # by reason and line
    forward: dict[int, str] = field(default_factory=dict)  # lines by the numbers of autograd's nodes

    def operate(self, name: str, is_kernel: bool) -> None:
        """An operation, which launches a kernel or none."""
        line, node = _place(), torch._C._current_autograd_node()
        if line is None:
            return
        if node is not None and line.startswith(LOOP):
            line = self.forward.get(node._sequence_nr(), line)
        elif torch.is_grad_enabled():
            self.forward[torch.autograd._get_sequence_nr() - 1] = line  # the number of the newest node
        if is_kernel:
            self.kernels[f"{name} at {line}"] += 1

    def wait(self, reason: str) -> None:
        if (line := _place()) is not None:
            self.waits[f"{reason} at {line}"] += 1

    def reset(self) -> None:
        self.kernels.clear()
        self.waits.clear()
        self.forward.clear()


def _place() -> str | None:
    """The innermost line of the project on the stack; None outside of an iteration's own work."""
    innermost, within = None, False
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if (file := _file(code.co_filename)) is not None:
            innermost = innermost or f"{file}:{frame.f_lineno}"
            if code.co_name == LOGGING:
                return None
            within = within or code.co_name == ITERATION
        frame = frame.f_back
    return innermost if within else None


@cache
def _file(name: str) -> str | None:
    """A file of the project by its path there; None of others, such as those of an environment in its folder."""
    if not name.startswith(str(ROOT)) or name.startswith(HERE) or "site-packages" in name:
        return None
    return str(Path(name).relative_to(ROOT))
