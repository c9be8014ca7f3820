"""Dream Fields by the one loop: images instead of latents, one optimizer, no prior."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.schema import RegularizerConfig, RunConfig
from guidance.clip import ClipGuidance
from guidance.config import GuidanceConfig
from runs import frozen_model
from runs.train import train
from systems.nerf import NeRFSystem
from tests.systems.tiny_runs import assert_same_state, load, with_output
from tests.tiny_image_text import save_tiny_clip, save_tiny_judge


@pytest.fixture(params=["clip", "judge"])
def clip_config(request: pytest.FixtureRequest, config: RunConfig, tmp_path: Path) -> RunConfig:
    folder = {"clip": save_tiny_clip, "judge": save_tiny_judge}[request.param](tmp_path / request.param)
    return replace(
        config,
        guidance=GuidanceConfig(loss="clip", guidance_scale=1.0, clip_model=str(folder)),
        regularizers=RegularizerConfig(
            entropy=[[0, 0.0]], transmittance=[[0, 0.5]], transmittance_target=[[0, 0.1], [4, 1.0]]
        ),
        prior=replace(config.prior, path="/nowhere"),  # it is not asked for
    )


def test_a_run_by_clip_leaves_its_results(clip_config, tmp_path) -> None:
    """Four iterations with a checkpoint between, then the second half once more from it."""
    config = with_output(clip_config, checkpoint_every=2, keep_checkpoints=3, diagnostics_every=2)
    folder = train(config, tmp_path / "whole")
    assert (folder / "turntable.mp4").stat().st_size > 0 and not (folder / "diagnostics").exists()
    rows = list(csv.DictReader((folder / "logs/version_0/metrics.csv").open()))
    assert len(rows) == 4
    for row in rows:
        assert -1 <= float(row["loss/clip"]) <= 1 and float(row["grad/images"]) > 0 and float(row["grad/scene"]) > 0
    assert "grad/latents" not in rows[0] and "loss/estimator" not in rows[0]
    # The target rises from 0.1 to 1, and a scene of little matter reaches it for a while.
    assert float(rows[0]["loss/transmittance"]) == pytest.approx(-0.1)
    assert float(rows[-1]["loss/transmittance"]) < -0.1
    last = load(folder / "checkpoints/last.ckpt")
    assert len(last["optimizer_states"]) == 1 and last["run"]["latent_shape"] == []
    assert not [name for name in last["state_dict"] if name.startswith("guidance")]
    again = train(config, tmp_path / "again", folder / "checkpoints/000002.ckpt")
    assert_same_state(last, load(again / "checkpoints/last.ckpt"))


def test_the_scene_moves_towards_the_text(clip_config, tmp_path) -> None:
    """At one and the same camera and background the cosine grows."""
    config = replace(
        clip_config,
        iterations=30,
        render=replace(clip_config.render, random_background=1.0, background_low=0.5, background_high=0.5),
        cameras=replace(clip_config.cameras, azimuth_deg=(0.0, 1e-3), elevation_deg=(10.0, 10.001)),
    )
    folder = train(with_output(config, turntable_frames=1), tmp_path / "run")
    rows = list(csv.DictReader((folder / "logs/version_0/metrics.csv").open()))
    assert float(rows[-1]["loss/clip"]) < float(rows[0]["loss/clip"])


def test_images_reach_the_model_at_its_own_size(clip_config, tmp_path) -> None:
    model = frozen_model.build_prior(clip_config, torch.device("cpu"))
    system = NeRFSystem(clip_config, model, frozen_model.build_prompts(clip_config, model))
    assert isinstance(system.guidance, ClipGuidance)
    rgb = torch.rand(2, 16, 16, 3, requires_grad=True)
    images = system.encode(rgb)
    assert images.shape == (2, 3, model.image_size, model.image_size) and images.requires_grad


def test_a_missing_judge_is_named(config, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(frozen_model, "REPOSITORY", tmp_path)
    config = replace(config, guidance=GuidanceConfig(loss="clip"))
    with pytest.raises(FileNotFoundError, match=r"guidance\.clip_model: 'priors/judge' is neither in"):
        frozen_model.build_prior(config, torch.device("cpu"))
