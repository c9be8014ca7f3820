"""The start of a run names what does the heavy work, and refuses what cannot run, before anything is trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models import backends
from renderers.ray_marching import volume_backend
from systems.nerf import NeRFParticles
from systems.texture import TextureParticles

CPU = torch.device("cpu")


def test_all_backends_of_a_stage_are_named(config) -> None:
    assert NeRFParticles(config).backend(CPU) == "hash grid: numba, volume renderer: numba"
    assert TextureParticles(config).backend(CPU) == "rasterizer: numba, hash grid: numba"


def test_a_backend_that_cannot_run_is_refused(config, monkeypatch) -> None:
    monkeypatch.setattr(backends, "triton_interpreted", lambda: False)
    volume_backend.cache_clear()  # another test may have been under the interpreter
    volume = replace(config.render.volume, backend="triton")
    wrong = replace(config, render=replace(config.render, volume=volume))
    with pytest.raises(ValueError, match=r"render.volume.backend: 'triton' runs on cuda, not on cpu; set it to 'auto'"):
        NeRFParticles(wrong).backend(CPU)
