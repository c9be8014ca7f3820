"""What a run's start says of memory, and what the run then takes: a program of its own, for a fresh process on Linux.

    python -m tests.systems.measured_memory CONFIG FOLDER KEY=VALUE...

Prints both as JSON. The allocator's environment variables must make it return what is freed.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from configs.load import load_config
from configs.sources import split_overrides
from runs import train
from systems import memory
from systems.callbacks import results
from tests.repository import REPOSITORY


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5)


def peak() -> int:
    """Most bytes that were resident since the last reset."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main(config_file: str, folder: Path, overrides: list[str]) -> None:
    estimates, peaks, estimate, write = [], [], memory.run_memory, results.write_results

    def watched(*arguments) -> memory.RunMemory:
        estimates.append(estimate(*arguments))
        reset_peak()
        return estimates[0]

    def watched_results(*arguments) -> list[Path]:
        peaks.append(peak())
        reset_peak()
        return write(*arguments)

    memory.run_memory, results.write_results = watched, watched_results
    config = load_config(REPOSITORY / "configs" / config_file, split_overrides(overrides)).config
    train.train(config, folder)
    print(json.dumps(asdict(estimates[0]) | {"total": estimates[0].total, "training": peaks[0], "results": peak()}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
