"""Judged runs: prompts, cameras, diversity."""

from __future__ import annotations

import pytest
import torch

from benchmarks.judged_runs import attributes_of, diversity, judging_cameras
from configs.load import load_config
from configs.sources import CONFIG_FOLDER
from renderers.cameras import view_index
from systems.nerf import NeRFParticles


def test_attributes_are_read_from_prompts():
    assert attributes_of("a striped red mug, side view") == ("mug", "red")
    with pytest.raises(ValueError, match="one class and one colour"):
        attributes_of("a mug")
    with pytest.raises(ValueError, match="one class and one colour"):
        attributes_of("a red duck and a red mug")


def test_diversity_compares_particles_under_the_same_camera():
    features = torch.zeros(3, 2, 4)
    features[0, :, 0] = 1.0
    features[1, :, 0] = torch.tensor([4.0, 4.0])
    # distances: 0-1: 3, 0-2: 1, 1-2: 4
    assert diversity(features) == pytest.approx(8 / 3)
    # A permutation of the cameras that is common to all changes nothing.
    assert diversity(features.flip(1)) == pytest.approx(8 / 3)
    with pytest.raises(ValueError, match="2 particles"):
        diversity(features[:1])


def test_no_judging_camera_is_at_the_border_of_two_view_words() -> None:
    config = load_config(CONFIG_FOLDER / "vsd-nerf.yaml", {}).config
    cameras = judging_cameras(NeRFParticles(config))
    nearest = ((cameras.azimuth_deg % 90) - 45).abs().min()
    assert len(cameras) == 8 and nearest == 22.5
    words = view_index(cameras.azimuth_deg, cameras.elevation_deg, config.text.view_thresholds)
    assert torch.bincount(words).tolist() == [2, 4, 2]  # front, side, back
