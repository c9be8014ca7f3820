"""Perp-Neg: what it takes away is perpendicular to what is wanted, and of views that the camera doesn't see."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from guidance.classifier_free import classifier_free_guidance
from guidance.config import PerpNegConfig
from guidance.perp_neg import perp_neg, perpendicular, view_weights
from renderers.cameras import Cameras, orbit_cameras
from renderers.config import VIEW_WORDS, ViewThresholds
from tests.rounding import assert_equal_to_rounding


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cameras_at(*directions: tuple[float, float]) -> Cameras:
    azimuth, elevation = torch.tensor(directions, dtype=torch.float32).T
    return orbit_cameras(azimuth, elevation, torch.full_like(azimuth, 2.0), torch.full_like(azimuth, 40.0))


def inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).flatten(1).sum(dim=1)


def test_the_perpendicular_part_is_perpendicular_and_the_rest_parallel() -> None:
    delta, main = random(3, 4, 8, 8), random(3, 4, 8, 8, seed=1)
    perp = perpendicular(delta, main)
    torch.testing.assert_close(inner(perp, main), torch.zeros(3), rtol=0, atol=1e-3)
    rest = delta - perp
    assert_equal_to_rounding(
        inner(rest, main).abs(), rest.flatten(1).norm(dim=1) * main.flatten(1).norm(dim=1), main[0].numel()
    )
    assert torch.equal(perpendicular(delta, torch.zeros_like(main)), delta)


def test_the_pull_along_the_text_stays_as_it_is() -> None:
    """Avoided texts change the guided prediction by something perpendicular to eps_c - eps_u, however they look."""
    u, c, front, side = (random(3, 4, 8, 8, seed=seed) for seed in range(4))
    avoided = [(front, torch.tensor([1.0, 0.5, 2.0])), (side, torch.tensor([0.3, 1.0, 0.0]))]
    change = perp_neg(u, c, avoided, 7.5) - classifier_free_guidance(u, c, 7.5)
    torch.testing.assert_close(inner(change, c - u), torch.zeros(3), rtol=0, atol=2e-2)
    assert (inner(change, front - u) < -1).all()


def test_no_weight_is_classifier_free_guidance() -> None:
    u, c, front = (random(3, 4, 8, 8, seed=seed) for seed in range(3))
    assert torch.equal(perp_neg(u, c, [(front, torch.zeros(3))], 7.5), classifier_free_guidance(u, c, 7.5))


def test_a_text_that_is_the_wanted_one_takes_nothing_away() -> None:
    """Where a plain negative prompt would cancel the text."""
    u, c = random(3, 4, 8, 8), random(3, 4, 8, 8, seed=1)
    found = perp_neg(u, c, [(u + 0.5 * (c - u), torch.ones(3))], 7.5)
    torch.testing.assert_close(found, classifier_free_guidance(u, c, 7.5), rtol=1e-4, atol=1e-4)


QUADRANTS = ViewThresholds(front_deg=45.0, back_deg=45.0, overhead_deg=60.0, bottom_deg=-5.0)


def test_weights_follow_the_cameras_angle_to_each_view() -> None:
    around = cameras_at((0, 0), (60, 0), (90, 0), (180, 0), (180, 80), (0, -80))
    config = PerpNegConfig(front=2.0, back=1.0, overhead=0.5)
    front, back, overhead = view_weights(around, config, QUADRANTS).values()
    torch.testing.assert_close(front, torch.tensor([0.0, 2 * 60 / 90, 2, 2, 2, 2 * 80 / 90]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(back, torch.tensor([1.0, 1, 1, 0, 80 / 90, 1]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(overhead, torch.tensor([0.5, 0.5, 0.5, 0.5, 0, 0.5]), rtol=1e-4, atol=1e-4)


def test_the_cameras_own_word_is_never_avoided() -> None:
    """Also at the border of its sector, 40 degrees off."""
    config = PerpNegConfig(**dict.fromkeys(VIEW_WORDS, 1.0))
    around = cameras_at((40, 0), (-40, 0), (220, 0), (30, 65), (30, -20))
    weights = torch.stack([*view_weights(around, config, QUADRANTS).values()])
    own = [VIEW_WORDS.index(word) for word in ("front", "front", "back", "overhead", "bottom")]
    assert all(weights[word, camera] == 0 for camera, word in enumerate(own))
    assert (weights.sum(dim=0) > 1).all()


def test_the_configuration_has_a_weight_for_every_view_word() -> None:
    assert tuple(field.name for field in fields(PerpNegConfig)) == VIEW_WORDS
    assert PerpNegConfig().words == () and PerpNegConfig(side=0.5, bottom=1.0).words == ("side", "bottom")
    with pytest.raises(ValueError, match=r"front\n.* greater than or equal to 0"):
        PerpNegConfig(front=-1.0)
