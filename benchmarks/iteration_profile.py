"""Where an iteration's time goes: CPU milliseconds and GFLOP of its parts, beside the machine's own matrix rate.

    python -m benchmarks.iteration_profile                                       # the default stage 1
    python -m benchmarks.iteration_profile prior.precision=bf16 render.views=2   # with other fields of a configuration

Runs the real training for a few iterations in a temporary folder. The parts are measured from outside, by wrapping
the functions that do them; the first iterations warm up and are left out. Milliseconds are CPU time of the process:
other work on the machine changes it less than the clock, and with one thread it is what an idle machine takes. GFLOP
are counted by torch.utils.flop_counter in an iteration of its own: matrix products, convolutions and attention, with a
multiply-add as two. Interpolation in the hash grid and compositing are no such operations and count as none.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from configs.load import load_config
from configs.sources import CONFIG_FOLDER
from guidance import score_distillation
from guidance.estimator import LoraEstimator
from runs.train import train
from systems.base import DistillationSystem
from systems.stages import system_class

WARM_UP = 3  # iterations
NOTHING_ELSE = {  # of a run that is there to be measured
    "output.preview_every": 100_000,
    "output.diagnostics_every": 100_000,
    "output.checkpoint_every": 100_000,
    "output.turntable_frames": 2,
    "output.turntable_size": 16,
    "output.mesh_resolution": 16,
    "trainer.accelerator": "cpu",
}


@dataclass
class Meter:
    """Adds up what the wrapped functions use, each without what is nested in it."""

    milliseconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    gflop: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    counting: bool = False  # operations rather than time: the counter slows everything down
    measuring: bool = False
    _open: list[str] = field(default_factory=list)
    _last: float = 0.0

    def wrap(self, name: str | Callable[..., str], function: Callable) -> Callable:
        """``function``, measured under ``name``, which may depend on the arguments."""

        def measured(*args: Any, **kwargs: Any) -> Any:
            self._switch()
            self._open.append(name if isinstance(name, str) else name(*args, **kwargs))
            try:
                return function(*args, **kwargs)
            finally:
                self._switch()
                self._open.pop()

        return measured

    def _switch(self) -> None:
        """Book what was used since the last switch under the innermost part."""
        if not self.measuring:
            return
        now = self.counter.get_total_flops() / 1e9 if self.counting else 1000 * time.process_time()
        if self._open:
            (self.gflop if self.counting else self.milliseconds)[self._open[-1]] += now - self._last
        self._last = now

    def start(self, counting: bool) -> None:
        self.counting, self.measuring = counting, True
        if counting:
            self.counter = FlopCounterMode(display=False)
            self.counter.__enter__()
        self._last = 0.0 if counting else 1000 * time.process_time()

    def stop(self) -> None:
        if self.counting:
            self.counter.__exit__(None, None, None)
        self.measuring = False


def matrix_rate(dtype: torch.dtype, size: int = 1024, repeats: int = 8) -> float:
    """GFLOP a second of CPU time in products of square matrices; the best of ``repeats``."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        a @ b
        best = min(best, time.process_time() - start)
    return 2 * size**3 / best / 1e9


def measure(meter: Meter, system: type[DistillationSystem], iterations: int) -> None:
    """Wrap the parts of an iteration, and say which iterations count."""

    def training_step(original: Callable) -> Callable:
        whole = meter.wrap("everything else", original)

        def step(self: DistillationSystem, batch: int, batch_idx: int) -> None:
            iteration = int(self.iteration)
            last = iteration == iterations - 1
            if iteration >= WARM_UP:
                meter.start(counting=last)
            whole(self, batch, batch_idx)
            if meter.measuring:
                meter.stop()

        return step

    def estimator_pass(*_args: Any, **_kwargs: Any) -> str:
        return "estimator, training forward" if torch.is_grad_enabled() else "estimator, score"

    system.prepare = meter.wrap("occupancy", system.prepare)
    system.render_training_views = meter.wrap("render", system.render_training_views)
    system.encode = meter.wrap("encode", system.encode)
    system._autoencode = meter.wrap("decode (reconstruction)", system._autoencode)
    system._update = meter.wrap(lambda _self, _index, name, *_: f"{name} optimizer", system._update)
    system.manual_backward = meter.wrap(_backward(meter), system.manual_backward)
    score_distillation.predict = meter.wrap("frozen network", score_distillation.predict)
    LoraEstimator.predict = meter.wrap(estimator_pass, LoraEstimator.predict)
    system.training_step = training_step(system.training_step)


def _backward(meter: Meter) -> Callable[..., str]:
    return lambda *_args, **_kwargs: meter._open[-1].replace("optimizer", "backward")


def main() -> None:
    """Print a table of the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fields", nargs="*", metavar="field=value", help="of the configuration")
    parser.add_argument("--config", type=Path, default=CONFIG_FOLDER / "vsd-nerf.yaml")
    parser.add_argument("--iterations", type=int, default=12, help="beside those that warm up")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    iterations = WARM_UP + args.iterations + 1  # the last one is counted
    stated = dict(field.split("=", 1) for field in args.fields)
    with tempfile.TemporaryDirectory() as folder:
        fixed = {"iterations": iterations, "trainer.threads": args.threads}
        config = load_config(args.config, {**NOTHING_ELSE, **fixed, **stated}).config
        torch.set_num_threads(args.threads)
        meter = Meter()
        measure(meter, system_class(config), iterations)
        train(config, Path(folder) / "run")
    total = sum(meter.milliseconds.values())
    print("| part | CPU ms an iteration | share | GFLOP |")
    print("|---|---|---|---|")
    for name, milliseconds in sorted(meter.milliseconds.items(), key=lambda item: -item[1]):
        print(
            f"| {name} | {milliseconds / args.iterations:.0f} | {milliseconds / total:.0%} | {meter.gflop[name]:.2f} |"
        )
    print(f"| **sum** | {total / args.iterations:.0f} | | {sum(meter.gflop.values()):.2f} |")
    for dtype in (torch.float32, torch.bfloat16):
        print(f"matrix products of 1024 x 1024, {dtype}, {args.threads} thread(s): {matrix_rate(dtype):.0f} GFLOP/s")


if __name__ == "__main__":
    main()
