"""The loss of docs/architecture.md: its gradient is the stated one, and scenes learn by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from configs.schema import RunConfig
from guidance.config import GuidanceConfig
from guidance.loading import load_prior
from guidance.registry import LOSSES
from renderers.cameras import turntable_cameras
from runs.train import train
from tests.guidance.steps import noise_pred, step
from tests.systems.tiny_runs import load

SCALE = 3.0


def test_the_gradient_is_the_difference_to_the_source(prior_folder: Path) -> None:
    prior, cameras = load_prior(prior_folder), turntable_cameras(3, 20.0, 3.0, 40.0)
    found = step(prior, cameras, GuidanceConfig(loss="bridge", guidance_scale=SCALE), view_template="{prompt}")
    texts = ("", "a red mug", LOSSES["bridge"].texts["source"])
    unconditional, conditional, source = (
        noise_pred(prior, found.x_t, found.t, prior.encode_text([text] * len(cameras))) for text in texts
    )
    guided = unconditional + SCALE * (conditional - unconditional)
    expected = prior.schedule.weight(found.t) * (guided - source)
    torch.testing.assert_close(found.gradient, expected, rtol=1e-3, atol=1e-4)
    assert expected.abs().max() > 1e-2


def test_a_scene_learns_by_it(config: RunConfig, tmp_path: Path) -> None:
    train(replace(config, guidance=GuidanceConfig(loss="bridge")), tmp_path)
    checkpoint = load(tmp_path / "checkpoints/last.ckpt")
    (optimizer,) = checkpoint["optimizer_states"]  # no estimator
    assert any(state["exp_avg"].abs().sum() > 0 for state in optimizer["state"].values())
