"""Proves the project on a GPU: kernels against their references, then what training costs, by part.

    python -m benchmarks.gpu                    # everything, under ten minutes
    python -m benchmarks.gpu --minutes 3        # what three minutes allow, the most important first
    python -m benchmarks.gpu --parts machine parity
    python -m benchmarks.gpu --small            # tiny sizes, on the CPU too: does the benchmark itself work?

It needs no network and no model: networks have random weights and the shapes of the public ones, because speed and
memory don't depend on values. It writes ``results.json`` and ``table.md`` after each part into ``--out``. A part that
fails is reported with its traceback, and the others go on; the exit status is 1 then. Figures of ``--small`` mean
nothing.

| part | what it measures |
|---|---|
| machine | the matrix rate in bf16, tf32 and float32, and the bandwidth of a copy |
| parity | values and gradients of each Triton kernel against plain PyTorch, at a run's sizes |
| kernels | the time of each of them |
| nerf, geometry, texture | iterations of a stage with Stable Diffusion 2.1 at 512 px |
| sdxl | stage 1 with Stable Diffusion XL |
| nerf:low | stage 1 with ``memory=low`` |
| nerf:graphs, nerf:channels_last, nerf:compiled, sdxl:graphs | stage 1 with a form of ``prior.speed`` |
| sd35, flux | stage 1 with Stable Diffusion 3.5 medium, and with FLUX.1 dev: only where ``--parts`` names them |

Of a stage: iterations a second, the time by part, peak memory beside the estimate, the kernels that are launched, how
often the host waits for the device and where, and the networks' operations as a share of the matrix rate.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

USUAL_PARTS = (
    *("machine", "parity", "kernels", "nerf", "geometry", "texture", "sdxl"),
    *("nerf:graphs", "nerf:low", "nerf:channels_last", "nerf:compiled", "sdxl:graphs"),
)
PARTS = (*USUAL_PARTS, "sd35", "flux")
MINUTES = 9.0  # the most that it takes by default


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="no part begins later; iterations become fewer")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(USUAL_PARTS))
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the benchmark itself")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"), help="folder of the results")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    import torch

    if not torch.cuda.is_available():
        if not args.small:
            print("no CUDA device: this measures GPUs; --small tries the benchmark itself on the CPU", file=sys.stderr)
            return 2
        os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported

    from benchmarks.gpu.report import Report
    from benchmarks.gpu.sizes import FULL, SMALL

    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    report = Report(args.out, device, SMALL if args.small else FULL, time.monotonic() + 60 * args.minutes)
    report.print_machine()
    for name in PARTS:
        if name not in args.parts:
            continue
        if report.seconds_left() <= 0:
            report.skip(name)
            continue
        report.run(name, _part(name))
    return report.close()


def _part(name: str):
    """The function that measures a part; its module is imported by then, so that a broken one breaks itself alone."""

    def measure(report) -> None:
        if name == "machine":
            from benchmarks.gpu.machine import measure_machine

            measure_machine(report)
        elif name == "parity":
            from benchmarks.gpu.kernels import measure_parity

            measure_parity(report)
        elif name == "kernels":
            from benchmarks.gpu.kernels import measure_times

            measure_times(report)
        else:
            from benchmarks.gpu.stages import measure_stage

            measure_stage(report, name)

    return measure


if __name__ == "__main__":
    sys.exit(main())
