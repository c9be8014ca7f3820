"""Metrics against closed forms."""

import pytest
import torch

from benchmarks.judged_runs import attributes_of, diversity, judging_cameras
from configs.load import load_config
from configs.sources import CONFIG_FOLDER
from evaluation.image_metrics import frechet_distance, nearest_distance, r_precision
from renderers.cameras import view_index


def test_frechet_distance_of_known_gaussians():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(200_000, 3, generator=generator, dtype=torch.float64)
    b = torch.randn(200_000, 3, generator=generator, dtype=torch.float64) * 2 + torch.tensor([1.0, 0.0, -2.0])
    # |mu|^2 + tr(1 + 4 - 2 * 2) a dimension
    assert frechet_distance(a, b) == pytest.approx(5 + 3, abs=0.1)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)


def test_frechet_distance_is_symmetric_and_ignores_rotations():
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(50, 8, generator=generator), torch.rand(60, 8, generator=generator)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
    distance = frechet_distance(a, b)
    assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-6)
    assert frechet_distance(a.double() @ rotation, b.double() @ rotation) == pytest.approx(distance, rel=1e-6)
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(a[:1], b)


def test_frechet_distance_with_fewer_samples_than_dimensions_is_finite():
    generator = torch.Generator().manual_seed(2)
    distance = frechet_distance(torch.randn(10, 40, generator=generator), torch.randn(10, 40, generator=generator))
    assert 0 < distance < 200


def test_r_precision_counts_nearest_captions():
    captions = torch.eye(4)
    pictures = torch.nn.functional.normalize(torch.eye(4) + 0.1)
    assert r_precision(pictures, captions, torch.tensor([0, 1, 2, 3])) == 1
    assert r_precision(pictures, captions, torch.tensor([0, 1, 3, 2])) == 0.5


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
    cameras = judging_cameras(config)
    nearest = ((cameras.azimuth_deg % 90) - 45).abs().min()
    assert len(cameras) == 8 and nearest == 22.5
    words = view_index(cameras.azimuth_deg, cameras.elevation_deg, config.text.view_thresholds)
    assert torch.bincount(words).tolist() == [2, 4, 2]  # front, side, back


def test_the_nearest_instance_is_found_in_every_view():
    world = torch.tensor([[[0.0, 0.0], [3.0, 4.0]], [[1.0, 0.0], [0.0, 0.0]]])  # two instances, two views
    results = torch.tensor([[0.0, 1.0], [0.0, 2.0]])
    assert nearest_distance(results, world) == pytest.approx((1.0 + 2.0) / 2)
    assert nearest_distance(world[0], world) == 0.0
