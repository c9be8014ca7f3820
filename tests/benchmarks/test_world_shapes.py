"""Results against the world's shapes: what is an instance is found again, what is not is clearly worse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.world_shapes import shape_score, world_truths
from evaluation.occupancy import open_edges
from evaluation.shape_alignment import Similarity
from evaluation.shape_metrics import volume_iou
from renderers.config import BakingConfig
from renderers.texture_baking import bake
from tests.evaluation.shapes import as_mesh, ball, moved, together

FEW = 8  # instances, where the number doesn't matter


def instance(name, index, instances=FEW):
    return as_mesh(*world_truths(name, instances)[index].solid.mesh(96))


@pytest.fixture(scope="module")
def mug():
    return instance("mug", 2)


@pytest.fixture(scope="module")
def mug_score(mug):
    return shape_score(mug, "mug", FEW)


def test_cavities_are_filled_and_parts_within_are_not_seen():
    hollow = ball(0.7)
    hollow = replace(hollow, faces=hollow.faces.flip(1))
    assert volume_iou(together(ball(), hollow, ball(0.2)), ball()) > 0.99
    truth = world_truths("snowman", 1)[0]
    vertices, faces = truth.solid.mesh(96)
    solid = as_mesh(vertices, faces)
    center = truth.shape.center + np.array([0, -0.35, 0])
    assert (truth.solid.distance(center + np.random.default_rng(0).uniform(-0.09, 0.09, (99, 3))) < -0.05).all()
    stuffed = together(solid, ball(0.09, center))
    plain, filled = shape_score(solid, "snowman", 1), shape_score(stuffed, "snowman", 1)
    assert filled.iou == pytest.approx(plain.iou, abs=0.01)
    assert filled.chamfer == pytest.approx(plain.chamfer, rel=0.05)


def test_an_instance_is_found_again_among_64_after_any_similarity():
    index = 21
    known = Similarity(222.0, 0.37, np.array([0.8, -0.3, 0.2]))
    score = shape_score(moved(instance("teapot", index, 64), known), "teapot")
    assert score.iou >= 0.97 and score.iou_instance == index
    assert score.chamfer < 0.015
    assert (score.alignment.azimuth_deg + 222 + 180) % 360 == pytest.approx(180, abs=1)
    assert score.alignment.scale * 0.37 == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(score.alignment.apply(known.translation[None]), 0, atol=0.005)


def test_scores_do_not_depend_on_the_results_place(mug, mug_score):
    """For a shape that is not an instance, too."""
    for mesh, expected in ((mug, mug_score), (ball(), shape_score(ball(), "mug", FEW))):
        other = shape_score(moved(mesh, Similarity(-67.0, 3.0, np.array([-5.0, 2.0, 9.0]))), "mug", FEW)
        assert other.iou == pytest.approx(expected.iou, abs=0.02)
        assert other.chamfer == pytest.approx(expected.chamfer, rel=0.1)
    assert other.iou_instance == expected.iou_instance


def test_another_shape_is_clearly_worse(mug, mug_score):
    assert mug_score.iou >= 0.97 and mug_score.chamfer < 0.015
    for mesh, name in ((mug, "airplane"), (ball(), "airplane"), (ball(), "mug")):
        score = shape_score(mesh, name, FEW)
        assert score.iou < 0.7
        assert score.chamfer > 3 * mug_score.chamfer


def test_the_seed_decides_on_the_instances(mug, mug_score):
    again = shape_score(mug, "mug", FEW)
    assert (again.iou, again.chamfer) == (mug_score.iou, mug_score.chamfer)
    assert shape_score(mug, "mug", FEW, seed=1).iou < mug_score.iou
    first, more = world_truths("mug", 2), world_truths("mug", FEW)
    assert all((a.solid.table == b.solid.table).all() for a, b in zip(first, more, strict=False))


def test_seams_of_a_texture_are_no_holes(mug):
    config = BakingConfig(texture_size=64, max_faces=2000)
    baked = bake(mug.vertices, mug.faces, lambda points: points * 0 + 0.5, config)
    assert open_edges(baked.faces.numpy()) > 0
    assert volume_iou(baked, mug) > 0.9


def test_what_has_no_inside_is_an_error(mug):
    with pytest.raises(ValueError, match="mesh: it has no faces"):
        shape_score(replace(mug, faces=mug.faces[:0]), "mug", 1)
    with pytest.raises(ValueError, match="mesh: it is not closed: 3 edges"):
        shape_score(replace(mug, faces=mug.faces[1:]), "mug", 1)
    with pytest.raises(ValueError, match="mesh: it is inside out, its volume is -"):
        shape_score(replace(mug, faces=mug.faces.flip(1)), "mug", 1)
    broken = mug.vertices.clone()
    broken[5, 1] = torch.nan
    with pytest.raises(ValueError, match=r"mesh: 1 of \d+ vertices are not finite"):
        shape_score(replace(mug, vertices=broken), "mug", 1)
    needle = replace(ball(), vertices=ball().vertices * torch.tensor([1e-4, 1.0, 1e-4]))
    with pytest.raises(ValueError, match="too thin to be compared"):
        shape_score(needle, "mug", 1)


def test_unknown_classes_and_no_instances_are_errors(mug):
    with pytest.raises(ValueError, match="'dragon' is not in the world"):
        shape_score(mug, "dragon")
    with pytest.raises(ValueError, match="instances: 0 must be at least 1"):
        shape_score(mug, "mug", 0)
