"""Training on a pretended CUDA device (`tests.pretended_cuda`): no mixture of devices, and few waits of the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pretended_cuda.counts import ROOT
from tests.pretended_cuda.registration import compile_registration
from tests.tools import lacking

pytestmark = pytest.mark.slow

STAGES = ("nerf", "geometry", "texture")
CASES = (
    *(f"{stage}:vsd:bf16-mixed:stable_diffusion" for stage in STAGES),
    "nerf:vsd:bf16-mixed:multiview",
    "nerf:sds:16-mixed:stable_diffusion",
    "nerf:clip:bf16-mixed:clip",
    "image:vsd:16-mixed:stable_diffusion",
    *(f"image:{loss}:bf16-mixed:stable_diffusion" for loss in ("csd", "nfsd", "ism", "sdi")),
    *(f"image:vsd:bf16-mixed:{family}" for family in ("stable_diffusion_v", "sdxl", "sd3", "flux")),
)


@pytest.fixture(scope="module")
def counts(tmp_path_factory) -> dict[str, dict[str, dict[str, int]]]:
    """By case the waits and the kernels of an iteration, by line."""
    pytest.importorskip("triton")
    if sys.platform != "linux":
        pytest.skip("the device is registered with PyTorch by a library for Linux")
    library = compile_registration(Path(tmp_path_factory.mktemp("pretended")))
    if library is None:
        lacking("no C++ compiler")
    answer = library.with_name("counts.json")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.pretended_cuda.runs", str(library), str(answer), *CASES]
    ran = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-4000:]
    return json.loads(answer.read_text(encoding="utf-8"))


@pytest.fixture
def waits(counts) -> dict[str, dict[str, int]]:
    return {case: found["waits"] for case, found in counts.items()}


@pytest.mark.parametrize("model", ["stable_diffusion", "multiview"])
def test_an_iteration_of_nerf_waits_for_the_size_of_its_samples_and_for_what_each_optimizer_looks_at(waits, model):
    found = waits[f"nerf:vsd:bf16-mixed:{model}"]
    assert sum(found.values()) <= 4, found


@pytest.mark.parametrize("stage", ["geometry", "texture"])
def test_an_iteration_of_a_surface_waits_where_the_size_of_a_list_must_be_known(waits, stage):
    """Which tetrahedra are crossed, edges, pixels that show a face; of the surface's parts the host needs the faces."""
    found = waits[f"{stage}:vsd:bf16-mixed:stable_diffusion"]
    assert sum(found.values()) <= 20, found


def test_no_case_waits_to_send_what_was_drawn_on_the_cpu(waits):
    assert {case: [place for place in found if "to the device" in place] for case, found in waits.items()} == {
        case: [] for case in CASES
    }


def test_an_iteration_of_nerf_launches_few_kernels_besides_the_networks(counts):
    """Of two chunks of rays, each rendered once more for its gradient, in front of one colour."""
    kernels = counts["nerf:vsd:bf16-mixed:stable_diffusion"]["kernels"]
    networks = ("guidance/families/", "guidance/estimator.py")
    others = {at: number for at, number in kernels.items() if not at.partition(" at ")[2].startswith(networks)}
    assert any(at.startswith("_table_gradient at models/hash_grid_triton.py") for at in others)
    assert not [
        at for at in others if at.startswith("convolution")
    ]  # a backward pass counts where its forward pass does
    assert sum(others.values()) <= 400, sorted(others.items(), key=lambda each: -each[1])[:20]
