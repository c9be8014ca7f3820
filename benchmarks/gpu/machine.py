"""What the machine could do at best: products of large matrices, and a copy."""

from __future__ import annotations

import torch

from benchmarks.gpu.report import Report
from benchmarks.gpu.timing import median_ms


def measure_machine(report: Report) -> None:
    """Rates in TFLOP/s, and bytes read and written a second."""
    for name, dtype, tf32 in (
        ("bf16", torch.bfloat16, False),
        ("tf32", torch.float32, True),
        ("float32", torch.float32, False),
    ):
        rate = report.attempt(name, lambda dtype=dtype, tf32=tf32: matrix_rate(report, dtype, tf32))
        if rate is not None:
            report.add(f"{name} TFLOP/s", rate / 1e12)
    bandwidth = report.attempt("copy", lambda: copy_bandwidth(report))
    if bandwidth is not None:
        report.add("copy GB/s", bandwidth / 1e9)


def matrix_rate(report: Report, dtype: torch.dtype, tf32: bool) -> float:
    """FLOP/s of a square product."""
    n, device = report.sizes.matrix, report.device
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        return 2 * n**3 / (median_ms(lambda: a @ b, device, report.sizes.repeats) / 1e3)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def copy_bandwidth(report: Report) -> float:
    """Bytes a second, of reading and writing together."""
    source = torch.zeros(report.sizes.copied, dtype=torch.uint8, device=report.device)
    target = torch.empty_like(source)
    milliseconds = median_ms(lambda: target.copy_(source), report.device, report.sizes.repeats)
    return 2 * report.sizes.copied / (milliseconds / 1e3)
