"""Insides and distances of shapes against closed forms, alignment against known similarities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from evaluation.occupancy import Grid, coverage, occupancy, open_edges
from evaluation.shape_alignment import MovedShape, RestingShape, Similarity, align
from evaluation.shape_metrics import chamfer_distance, volume_iou
from priors.world.solids import rotation_about
from tests.evaluation.shapes import ball, together


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


def test_similarities_turn_as_azimuths_do():
    similarity = Similarity(90.0, 2.0, np.array([0, 1, 0]))
    np.testing.assert_allclose(similarity.apply(np.array([[0, 0, 1.0]])), [[2, 1, 0]], atol=1e-12)
    np.testing.assert_allclose(similarity.rotation, rotation_about("y", 90), atol=1e-12)
    points = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(similarity.undo(similarity.apply(points)), points)
    with pytest.raises(ValueError, match="scale: -1 must be positive"):
        Similarity(0.0, -1.0, np.zeros(3))


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
