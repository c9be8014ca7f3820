"""The benchmark of GPUs at tiny size: it runs to its end, reports what fails, and writes after each part."""

from __future__ import annotations

import json
import time

import pytest
import torch

from benchmarks.gpu.__main__ import main
from benchmarks.gpu.report import Report
from benchmarks.gpu.sizes import SMALL

STAGES = ("nerf", "geometry", "texture", "sdxl")


def results(folder) -> dict:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_stages_are_measured_by_part(tmp_path, capsys) -> None:
    assert main(["--small", "--parts", "machine", *STAGES, "--out", str(tmp_path)]) == 0, capsys.readouterr().out
    found = results(tmp_path)
    assert found["failed"] == {} and set(found["parts"]) == {"machine", *STAGES}
    for stage in STAGES:
        figures = found["parts"][stage]
        parts = [value for name, value in figures.items() if name.endswith(", ms")]
        assert figures["timed iterations"] == SMALL.iterations
        assert sum(parts) == pytest.approx(figures["ms an iteration"])
        assert figures["estimate, GB"] > 0 and figures["networks, TFLOP an iteration"] > 0
        assert ("estimator's training, ms" in figures) == (stage != "geometry")  # which has SDS
    assert "| nerf | iterations/s |" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_kernels_are_compared(tmp_path, triton_device) -> None:
    assert main(["--small", "--parts", "parity", "--out", str(tmp_path)]) == 0
    figures = results(tmp_path)["parts"]["parity"]
    assert len(figures) == 12
    assert all(difference["relative"] < 1e-5 for difference in figures.values())


def test_a_part_that_fails_leaves_the_others_and_its_traceback(tmp_path, capsys) -> None:
    report = Report(tmp_path, torch.device("cpu"), SMALL, time.monotonic() + 60)

    def breaks(report: Report) -> None:
        report.add("before", 1.5)
        report.attempt("inner", lambda: 1 / 0)
        raise RuntimeError("no such kernel")

    report.run("parity", breaks)
    report.run("kernels", lambda report: report.add("after", 2))
    assert report.close() == 1
    found = results(tmp_path)
    assert found["parts"] == {"parity": {"before": 1.5}, "kernels": {"after": 2}}
    assert found["failed"]["parity"].startswith("Traceback") and "breaks" in found["failed"]["parity"]
    assert "ZeroDivisionError" in found["failed"]["parity: inner"]
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "FAILED parity: inner: ZeroDivisionError: division by zero",
        "FAILED parity: RuntimeError: no such kernel",
        "2 failed",
    ]


def test_parts_for_which_no_time_is_left_are_named(tmp_path, capsys) -> None:
    assert main(["--small", "--minutes", "0", "--parts", "machine", "--out", str(tmp_path)]) == 0
    assert "machine: no time was left" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so(capsys) -> None:
    assert main([]) == 2
    assert "no CUDA device" in capsys.readouterr().err
