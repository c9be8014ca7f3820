"""Metrics against closed forms."""

import pytest
import torch

from evaluation.image_metrics import frechet_distance, nearest_distance, r_precision


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


def test_the_nearest_instance_is_found_in_every_view():
    world = torch.tensor([[[0.0, 0.0], [3.0, 4.0]], [[1.0, 0.0], [0.0, 0.0]]])  # two instances, two views
    results = torch.tensor([[0.0, 1.0], [0.0, 2.0]])
    assert nearest_distance(results, world) == pytest.approx((1.0 + 2.0) / 2)
    assert nearest_distance(world[0], world) == 0.0
