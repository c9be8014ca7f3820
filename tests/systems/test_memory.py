"""What a run's start says of memory against what the run takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trimesh

from configs.load import load_config
from configs.schema import RegularizerConfig
from guidance import memory as guidance_memory
from guidance.memory import GB, LiveMemory, device_memory
from renderers.config import VolumeRendererConfig
from systems import memory
from systems.memory import RunMemory, describe, memory_line, rendering_memory, run_memory
from systems.nerf import NeRFSystem
from tests.repository import REPOSITORY
from tests.tiny_priors import save_tiny_stable_diffusion

CPU = torch.device("cpu")
QUICK = (
    "prior=mini",
    "prompt=a red mug",
    "iterations=3",
    "output.turntable_frames=1",
    "output.mesh_resolution=32",
    "output.preview_every=100",
    "output.diagnostics_every=100",
    "noise.t_max=[[0,0.5]]",
)
MESH = ("from={mesh}", "render.size=256")


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
@pytest.mark.parametrize(
    ("config", "larger", "settings"),
    [
        ("vsd-nerf.yaml", 3, ("render.size=64",)),
        pytest.param("vsd-nerf.yaml", 4, ("render.size=64",), marks=pytest.mark.slow),
        pytest.param(
            "vsd-nerf.yaml",
            1,
            ("render.size=128", "render.volume.rays_per_chunk=4096", "scene.field.grid.log2_hashmap_size=18"),
            marks=pytest.mark.slow,
        ),
        pytest.param("vsd-texture.yaml", 3, MESH, marks=pytest.mark.slow),
        pytest.param("vsd-geometry.yaml", 1, (*MESH, "surface.field.cells=96"), marks=pytest.mark.slow),
    ],
)
def test_a_run_takes_what_its_start_says(config, larger, settings, tmp_path) -> None:
    """Within a fifth, what the libraries hold left aside. glibc is told to give back what is freed."""
    prior = save_tiny_stable_diffusion(tmp_path / "prior", larger=larger)
    trimesh.creation.icosphere(4).export(tmp_path / "ball.glb")
    settings = [setting.format(mesh=tmp_path / "ball.glb") for setting in settings]
    command = [sys.executable, "-m", "tests.systems.measured_memory", config, str(tmp_path / "run"), *QUICK]
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment = os.environ | allocator | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    found = subprocess.run(
        [*command, f"prior.path={prior}", *settings], env=environment, capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr[-2000:]
    told = json.loads(found.stdout.splitlines()[-1])
    libraries = told["program"]
    assert told["training"] - libraries == pytest.approx(told["total"] - libraries, rel=0.2), told


@pytest.mark.parametrize("rays", [700, 2**15])
def test_few_rays_tell_what_many_take(config, prior, prompts, rays) -> None:
    """With one chunk and with several, which are rendered again for their gradients."""
    volume = VolumeRendererConfig(samples_per_ray=32, rays_per_chunk=rays)
    render = replace(config.render, size=96, volume=volume, occupancy_warmup=100)
    config = replace(config, render=render, regularizers=RegularizerConfig(entropy=[[0, 0.0]]))
    system = NeRFSystem(config, prior, prompts)
    told = rendering_memory(system, CPU)
    with LiveMemory(CPU) as live:
        live.ignore([*system.scene.parameters(), *system.scene.buffers()])
        views = system.render_training_views(0, 0, system.draw_cameras(0))
        held = live.now
        views.rgb.sum().backward()
    assert told.held == pytest.approx(held, rel=0.1)
    assert told.peak == pytest.approx(live.peak, rel=0.1)
    assert system.scene.renderer.config == volume


def test_the_estimate_leaves_the_run_as_it_was(system) -> None:
    before = {name: value.clone() for name, value in system.state_dict().items()}
    drawn = torch.get_rng_state()
    run_memory(system, CPU)
    assert all(torch.equal(before[name], value) for name, value in system.state_dict().items())
    assert all(parameter.grad is None for parameter in system.parameters())
    assert torch.equal(drawn, torch.get_rng_state())


def test_the_line_says_what_takes_how_much() -> None:
    needed = RunMemory(round(0.6 * GB), 2 * GB, 0, GB, iteration=4 * GB, pictures=5 * GB)
    line = describe(needed, 12 * GB)
    shares = "program 0.6, weights 2.0, scene 1.0, iteration 4.0, pictures 5.0"
    assert line == f"training needs about 8.6 GB ({shares}), this device has 12.0 GB"
    assert "too little; " in describe(needed, 8 * GB)


def test_a_container_has_no_more_than_its_limit(tmp_path: Path, monkeypatch) -> None:
    whole = device_memory(CPU)
    monkeypatch.setattr(guidance_memory, "CONTAINER_LIMIT", tmp_path / "memory.max")
    for limit, expected in (("max\n", whole), ("1000000\n", 1_000_000), (f"{10 * whole}\n", whole)):
        (tmp_path / "memory.max").write_text(limit, encoding="ascii")
        assert device_memory(CPU) == expected


def test_little_memory_is_a_setting(config, prior, prompts) -> None:
    """Of many rays at once, and of a network whose activations are large."""
    found = {
        memory: load_config(
            REPOSITORY / "configs/vsd-nerf.yaml", {"prior": "sd21", "memory": memory, "trainer.accelerator": "cpu"}
        ).config
        for memory in ("full", "low")
    }
    chunks = {memory: each.render.volume.rays_per_chunk for memory, each in found.items()}
    assert chunks["low"] * 8 == chunks["full"]
    assert found["low"].estimator.gradient_checkpointing and not found["full"].estimator.gradient_checkpointing

    def rendering(rays: int) -> int:
        volume = VolumeRendererConfig(samples_per_ray=32, rays_per_chunk=rays)
        render = replace(config.render, size=96, volume=volume, occupancy_warmup=100)
        return rendering_memory(NeRFSystem(replace(config, render=render), prior, prompts), CPU).peak

    assert rendering(1024) < 0.5 * rendering(8192)


def test_an_estimate_that_fails_stops_no_run(system, monkeypatch) -> None:
    def fail(*_):
        raise RuntimeError("an operation\nthat meta tensors lack")

    monkeypatch.setattr(memory, "estimate_memory", fail)
    assert memory_line(system, CPU) == "no estimate (an operation that meta tensors lack)"

    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(memory, "estimate_memory", full)
    with pytest.raises(torch.OutOfMemoryError):
        memory_line(system, CPU)
