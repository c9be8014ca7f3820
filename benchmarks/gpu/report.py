"""What was measured, as JSON and as a table; what failed, with its traceback. Written anew after each part."""

from __future__ import annotations

import json
import platform
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.sizes import Sizes
from files.whole_files import whole_file

GB = 1e9


class Report:
    """The results so far."""

    def __init__(self, folder: Path, device: torch.device, sizes: Sizes, deadline: float) -> None:
        """Begin.

        Args:
            deadline: of ``time.monotonic``, after which no part begins.
        """
        self.folder, self.device, self.sizes, self.deadline = folder, device, sizes, deadline
        self.results: dict[str, Any] = {"machine": machine(device), "parts": {}, "seconds": {}, "failed": {}}
        self.rows: list[tuple[str, str, str]] = []  # part, quantity, value
        self._part = ""

    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def add(self, quantity: str, value: Any, shown: str | None = None) -> None:
        """A result of the present part.

        Args:
            value: what JSON can hold.
            shown: the value in the table; by default as it is.
        """
        self.results["parts"].setdefault(self._part, {})[quantity] = value
        text = shown if shown is not None else f"{value:.4g}" if isinstance(value, float) else str(value)
        self.rows.append((self._part, quantity, text))
        print(f"  {quantity}: {text}", flush=True)

    def attempt(self, quantity: str, function: Callable[[], Any]) -> Any:
        """The function's result; None, and a note, where it fails: the part goes on."""
        try:
            return function()
        except Exception as error:  # whatever it is, the other measurements are worth having
            self.fail(f"{self._part}: {quantity}", error)
            return None

    def run(self, name: str, measure: Callable[[Report], None]) -> None:
        """A part, whatever happens in it."""
        print(f"{name} ({self.seconds_left():.0f} s left)", flush=True)
        self._part, started = name, time.monotonic()
        try:
            measure(self)
        except Exception as error:
            self.fail(name, error)
        if self.device.type == "cuda":
            self.attempt("empty the cache", torch.cuda.empty_cache)
        self.results["seconds"][name] = round(time.monotonic() - started, 2)
        self.write()

    def fail(self, what: str, error: Exception) -> None:
        self.results["failed"][what] = "".join(traceback.format_exception(error))
        print(f"  FAILED {what}: {_one_line(error)}", flush=True)

    def skip(self, name: str) -> None:
        self.results["parts"][name] = "no time was left"
        print(f"{name}: no time was left", flush=True)

    def print_machine(self) -> None:
        print("; ".join(f"{key} {value}" for key, value in self.results["machine"].items()), flush=True)

    def write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, text in {"results.json": json.dumps(self.results, indent=1), "table.md": self.table()}.items():
            with whole_file(self.folder / name) as path:
                path.write_text(text, encoding="utf-8")

    def table(self) -> str:
        """As it can stand in docs/costs.md."""
        what = ", ".join(f"{key} {value}" for key, value in self.results["machine"].items())
        lines = [f"`python {' '.join(['-m benchmarks.gpu', *sys.argv[1:]])}`: {what}.", ""]
        lines += ["| part | quantity | value |", "|---|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        return "\n".join(lines) + "\n"

    def close(self) -> int:
        """Write, say what failed; the exit status."""
        self.write()
        failed = self.results["failed"]
        print(f"\nwritten: {self.folder / 'results.json'}, {self.folder / 'table.md'}")
        for what, trace in failed.items():
            print(f"FAILED {what}: {trace.strip().splitlines()[-1][:300]}")
        print(f"{len(failed)} failed")
        return 1 if failed else 0


def machine(device: torch.device) -> dict[str, Any]:
    """What it ran on."""
    found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError:
        found["triton"] = "none"
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": properties.name,
            "memory GB": round(properties.total_memory / GB, 1),
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
        }
    else:
        found["gpu"] = "none"
    return found


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
