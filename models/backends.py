"""Which of several codes computes a thing: by the configuration, the device, and what works there.

``auto`` takes the first candidate that works on the device. If candidates that were made for the device cannot run,
one line says which, why, and what runs instead. A backend that is named in the configuration runs, or is an error.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

logger = logging.getLogger(__name__)

TRITON_CAPABILITY = (7, 0)  # the lowest compute capability for which torch.compile takes Triton


@dataclass(frozen=True)
class Backend:
    """One code."""

    name: str
    home: str | None = None  # the type of device that it was made for; None: any
    # Why it cannot run on a device of that type; None if it can.
    obstacle: Callable[[torch.device], str | None] = lambda device: None


def package_obstacle(package: str) -> str | None:
    """Why a package, or a module of one, cannot be used: missing or broken. None if it can be imported."""
    if importlib.util.find_spec(package.partition(".")[0]) is None:
        return f"{package.partition('.')[0]} is not installed"
    try:
        importlib.import_module(package)
    except Exception as error:  # packages with compiled parts fail with errors of all kinds
        return f"{package} cannot be loaded ({_first_line(error)})"
    return None


def triton_interpreted() -> bool:
    """Whether Triton's interpreter stands in for a GPU (``TRITON_INTERPRET=1``): slow, and for tests alone."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def triton_obstacle(device: torch.device) -> str | None:
    """Why our Triton kernels cannot run on a device; None if they can. The first call for a device runs a kernel."""
    return package_obstacle("triton") or _device_obstacle(device.type, device.index)


@functools.cache
def _device_obstacle(kind: str, index: int | None) -> str | None:
    device = torch.device(kind) if index is None else torch.device(kind, index)
    try:
        if kind == "cuda" and not triton_interpreted():
            capability = torch.cuda.get_device_capability(device)
            if capability < TRITON_CAPABILITY:
                found, lowest = (".".join(map(str, each)) for each in (capability, TRITON_CAPABILITY))
                return f"compute capability {found} is below {lowest}"
        return None if _trial_succeeds(device) else "a trial kernel computed a wrong sum"
    except Exception as error:  # no C compiler, a driver that is too old, and whatever else the compiler says
        return f"a trial kernel failed ({_first_line(error)})"


def _trial_succeeds(device: torch.device) -> bool:
    from models.triton_trial import add_up

    values, total = torch.ones(8, device=device), torch.zeros(1, device=device)
    with on_device(device):
        add_up[(2,)](values, total, 8)
    return total.item() == 16


def on_device(device: torch.device) -> AbstractContextManager:
    """A block in which Triton starts kernels on a device; it takes the current one otherwise."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:200]


class BackendChoice:
    """The backend of one thing; remembers what it has chosen and announced for each device."""

    def __init__(self, what: str, field: str, configured: str, candidates: Sequence[Backend]) -> None:
        """Describe the choice.

        Args:
            what: the thing, as the log names it.
            field: the field of the configuration that names the backend.
            configured: the field's value: "auto" or a candidate's name.
            candidates: the fastest first; the last one runs everywhere.
        """
        self.what, self.field, self.configured = what, field, configured
        self.candidates = {each.name: each for each in candidates}
        self._chosen: dict[tuple[str, int | None], str] = {}

    def on(self, device: torch.device) -> str:
        """The backend's name.

        Raises:
            ValueError: the configured backend doesn't run on the device.
        """
        key = (device.type, device.index)
        if key not in self._chosen:
            self._chosen[key] = self._automatic(device) if self.configured == "auto" else self._named(device)
            logger.info(
                "%s: backend %s on %s (configured: %s)", self.what, self._chosen[key], device.type, self.configured
            )
        return self._chosen[key]

    def _automatic(self, device: torch.device) -> str:
        reasons: list[str] = []
        for each in self.candidates.values():
            if each.home not in (None, device.type):
                continue
            obstacle = each.obstacle(device)
            if obstacle is None:
                if reasons:
                    logger.warning("%s: %s is used on %s: %s", self.what, each.name, device.type, "; ".join(reasons))
                return each.name
            reasons.append(f"no {each.name}, because {obstacle}")
        raise AssertionError(f"{self.what}: the last candidate must run everywhere")

    def _named(self, device: torch.device) -> str:
        backend = self.candidates[self.configured]
        interpreted = backend.name == "triton" and triton_interpreted()
        if backend.home not in (None, device.type) and not interpreted:
            raise ValueError(
                f"{self.field}: {backend.name!r} runs on {backend.home}, not on {device.type}; set it to 'auto'"
            )
        if (obstacle := backend.obstacle(device)) is not None:
            raise ValueError(
                f"{self.field}: {backend.name!r} cannot be used: {obstacle}; docs/install.md says what it needs, "
                "or set it to 'auto'"
            )
        return backend.name


TORCH = Backend("torch")  # every thing has a reference in plain PyTorch
NUMBA = Backend("numba", "cpu", lambda device: package_obstacle("numba"))
TRITON = Backend("triton", "cuda", triton_obstacle)
