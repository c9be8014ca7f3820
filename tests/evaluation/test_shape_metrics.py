"""Shapes against the truth: insides and distances against closed forms, alignment against known similarities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from evaluation.occupancy import Grid, coverage, occupancy, open_edges
from evaluation.shape_alignment import MovedShape, RestingShape, Similarity, align
from evaluation.shape_metrics import chamfer_distance, shape_score, volume_iou, world_truths
from models.mesh import Mesh
from priors.world.solids import rotation_about
from renderers.config import BakingConfig
from renderers.texture_baking import bake

FEW = 8  # instances, where the number doesn't matter


def as_mesh(vertices, faces):
    vertices = torch.from_numpy(np.array(vertices)).float()
    return Mesh(vertices, torch.from_numpy(np.array(faces)).long(), torch.zeros_like(vertices))


def ball(radius=1.0, center=(0.0, 0.0, 0.0), subdivisions=4):
    mesh = trimesh.creation.icosphere(subdivisions, radius)
    return as_mesh(mesh.vertices + center, mesh.faces)


def together(*meshes):
    shifts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = torch.cat([mesh.faces + shift for mesh, shift in zip(meshes, shifts.tolist(), strict=False)])
    return as_mesh(torch.cat([mesh.vertices for mesh in meshes]), faces)


def moved(mesh, similarity):
    return as_mesh(similarity.apply(mesh.vertices.double().numpy()), mesh.faces)


def instance(name, index, instances=FEW):
    return as_mesh(*world_truths(name, instances)[index].solid.mesh(96))


@pytest.fixture(scope="module")
def mug():
    return instance("mug", 2)


@pytest.fixture(scope="module")
def mug_score(mug):
    return shape_score(mug, "mug", FEW)


def test_insides_against_brute_force():
    generator = np.random.default_rng(0)
    mesh = trimesh.creation.icosphere(2, 0.7)
    mesh.vertices += 0.1 * np.sin(5 * mesh.vertices)
    grid = Grid(shape=(9, 13, 11), lowest=generator.uniform(-0.8, -0.6, 3), cell=0.1)  # cuts the shape off
    # The solid angle of the surface around a point is 4 pi inside (Van Oosterom and Strackee 1983).
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces][None] - grid.centers()[:, None, None], 2, 0)
    la, lb, lc = (np.linalg.norm(corner, axis=-1) for corner in (a, b, c))
    below = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
    angles = 2 * np.arctan2((a * np.cross(b, c)).sum(-1), below).sum(axis=1)
    got = occupancy(mesh.vertices, mesh.faces, grid)
    np.testing.assert_array_equal(got.reshape(-1), angles > 2 * np.pi)


def test_lines_through_edges_and_vertices_hit_once():
    """All centres lie above vertices, edges and diagonals of the box's faces."""
    box = trimesh.creation.box((1, 1, 1)).subdivide()
    grid = Grid((9, 9, 9), np.full(3, -1.125), 0.25)
    expected = np.zeros((9, 9, 9), dtype=bool)
    expected[2:6, 2:6, 2:6] = True  # of two opposite faces one has the centres that lie on it
    np.testing.assert_array_equal(occupancy(box.vertices, box.faces, grid), expected)
    assert coverage(box.vertices, box.faces, grid).sum() / 4**3 == pytest.approx(1)


def test_coverage_sums_to_the_volume_and_overlaps_count_once():
    two = together(ball(0.5), ball(0.5, center=(0.03, 0, 0)))
    vertices, faces = two.vertices.double().numpy(), two.faces.numpy()
    grid = Grid.around(vertices.min(axis=0), vertices.max(axis=0), 1 / 64)
    share = coverage(vertices, faces, grid)
    # Two balls whose centres are d apart: their volumes less the lens pi (4 r + d) (2 r - d)^2 / 12.
    union = 2 * 4 / 3 * np.pi / 8 - np.pi * (4 * 0.5 + 0.03) * (2 * 0.5 - 0.03) ** 2 / 12
    assert share.sum() / 64**3 == pytest.approx(union, rel=0.005)
    assert share.min() >= 0 and share.max() <= 1
    border = share.copy()
    border[1:-1, 1:-1, 1:-1] = 0
    assert border.max() < 1e-9


def test_open_edges_are_counted():
    box = trimesh.creation.box((1, 1, 1))
    assert open_edges(box.faces) == 0
    assert open_edges(box.faces[1:]) == 3
    flipped = box.faces.copy()
    flipped[0] = flipped[0, ::-1]
    assert open_edges(flipped) == 3


@pytest.mark.parametrize(("small", "large"), [(0.5, 0.6), (0.3, 0.9)])
def test_concentric_balls_have_the_closed_form(small, large):
    assert volume_iou(ball(small), ball(large)) == pytest.approx((small / large) ** 3, rel=0.02)
    assert chamfer_distance(ball(small), ball(large)) == pytest.approx(large - small, rel=0.02)


def test_overlapping_balls_have_the_closed_form():
    d = 0.4
    lens = np.pi * (4 + d) * (2 - d) ** 2 / 12
    assert volume_iou(ball(), ball(center=(0, d, 0))) == pytest.approx(lens / (8 / 3 * np.pi - lens), rel=0.02)
    assert volume_iou(ball(), ball(center=(3, 0, 0))) == 0
    assert volume_iou(ball(), ball()) == 1
    assert chamfer_distance(ball(), ball(), seed=1) < 0.02


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


def test_similarities_turn_as_azimuths_do():
    similarity = Similarity(90.0, 2.0, np.array([0, 1, 0]))
    np.testing.assert_allclose(similarity.apply(np.array([[0, 0, 1.0]])), [[2, 1, 0]], atol=1e-12)
    np.testing.assert_allclose(similarity.rotation, rotation_about("y", 90), atol=1e-12)
    points = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(similarity.undo(similarity.apply(points)), points)
    with pytest.raises(ValueError, match="scale: -1 must be positive"):
        Similarity(0.0, -1.0, np.zeros(3))


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


def test_mirror_images_are_not_matched():
    """Four balls of which no turn makes the mirror image."""
    places = ((0, 0, 0), (0.8, 0, 0), (0, 0, 1.2), (0.8, 0.6, 0))
    lopsided = together(*(ball(0.3, place, subdivisions=3) for place in places))
    mirrored = replace(lopsided, vertices=lopsided.vertices * torch.tensor([-1.0, 1, 1]), faces=lopsided.faces.flip(1))
    vertices, faces = lopsided.vertices.double().numpy(), lopsided.faces.numpy()
    grid = Grid.around(vertices.min(axis=0), vertices.max(axis=0), 0.03)
    inside = grid.centers()[occupancy(vertices, faces, grid).reshape(-1)]
    inside = np.random.default_rng(0).permutation(inside)
    resting = RestingShape.of(inside, len(inside) * grid.cell**3)
    same, other = (
        align(MovedShape.of(mesh.vertices.double().numpy(), mesh.faces.numpy()), resting).iou
        for mesh in (lopsided, mirrored)
    )
    assert same > 0.9
    assert other < 0.7


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
