"""All Triton kernels compile for GPUs that needn't be there; Triton's interpreter, in the other tests, takes more."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.repository import REPOSITORY

pytest.importorskip("triton")
LOWEST, RECENT = 70, 90  # compute capabilities, times ten; the lowest is models.backends.TRITON_CAPABILITY


def test_kernels_compile_and_keep_their_roundings(tmp_path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.compile_triton", str(LOWEST), str(RECENT)]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    fused = {}  # fused multiply-adds by kernel
    for name, _capability, _fma, count in lines:
        fused[name] = fused.get(name, 0) + int(count)
    # Cells, intervals and visible faces are those of the reference because nothing is rounded once instead of twice.
    exact = ("_encode", "_table_gradient", "_position_gradient", "_count", "_write", "_fill")
    assert {name: fused[name] for name in exact} == dict.fromkeys(exact, 0)
    assert {"_weights", "_weights_gradient", "_accumulate", "add_up"} <= fused.keys()
