"""The closed world: geometry against brute force, conventions, captions, determinism."""

import numpy as np
import pytest
import torch

from models.bounding_sphere import bounding_sphere
from priors.world.appearance import COLORS, PATTERNS, render, sample_appearance
from priors.world.captions import compose, held_out_pairs, sample_caption, vocabulary
from priors.world.classes import CLASSES, build_solid
from priors.world.dataset import draw_instance, render_dataset, sample_instance
from priors.world.solids import RADIUS, Kind, Material, Op, Part, Solid, rotation_about, rotation_to
from renderers.cameras import orbit_cameras
from renderers.config import VIEW_WORDS


def _one(*values):
    return [torch.tensor([v], dtype=torch.float32) for v in values]


def _raw(*parts):
    """A solid in its own coordinates, without the world's centring and scaling."""
    from priors.world.solids import _table

    return Solid(tuple(parts), _table(tuple(parts)))


def test_primitive_distances_against_closed_forms():
    points = np.random.default_rng(0).uniform(-1, 1, (500, 3))
    radius = np.linalg.norm(points, axis=1)
    sphere = _raw(Part(Kind.ELLIPSOID, (0, 0, 0), (0.4, 0.4, 0.4)))
    np.testing.assert_allclose(sphere.distance(points), radius - 0.4, atol=1e-9)
    torus = _raw(Part(Kind.TORUS, (0, 0, 0), (0.5, 0.1, 0)))
    expected = np.hypot(np.hypot(points[:, 0], points[:, 2]) - 0.5, points[:, 1]) - 0.1
    np.testing.assert_allclose(torus.distance(points), expected, atol=1e-9)
    box = _raw(Part(Kind.BOX, (0, 0, 0), (0.2, 0.3, 0.4)))
    inside = (np.abs(points) < [0.2, 0.3, 0.4]).all(axis=1)
    np.testing.assert_array_equal(box.occupancy(points), inside)
    cylinder = _raw(Part(Kind.CONE, (0, 0, 0), (0.3, 0.3, 0.5), rotation=rotation_to((1, 0, 0))))
    inside = (np.hypot(points[:, 1], points[:, 2]) < 0.3) & (np.abs(points[:, 0]) < 0.5)
    np.testing.assert_array_equal(cylinder.occupancy(points), inside)


def test_subtraction_removes_and_names_the_cut():
    ball = Part(Kind.ELLIPSOID, (0, 0, 0), (0.5, 0.5, 0.5))
    hole = Part(Kind.ELLIPSOID, (0, 0.5, 0), (0.3, 0.3, 0.3), Material.LIGHT, op=Op.SUBTRACT)
    solid = _raw(ball, hole)
    assert not solid.occupancy(np.array([[0, 0.4, 0]]))[0]
    assert solid.occupancy(np.array([[0, -0.4, 0]]))[0]
    assert solid.material(np.array([[0, 0.2, 0], [0, -0.5, 0]])).tolist() == [Material.LIGHT, Material.MAIN]


def test_rotations_are_proper():
    for rotation in (rotation_to((1, 2, 3)), rotation_to((0, 0, 1)), rotation_about("x", 30), rotation_about("y", 70)):
        matrix = np.asarray(rotation)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(matrix) == pytest.approx(1.0)
    np.testing.assert_allclose(np.asarray(rotation_to((0, 0, 2)))[:, 1], [0, 0, 1], atol=1e-12)


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_fits_the_unit_ball_and_traces_safely(name):
    rng = np.random.default_rng(5)
    for _ in range(3):
        solid = build_solid(name, rng)
        points = rng.uniform(-1, 1, (4000, 3))
        distance = solid.distance(points)
        # All matter lies inside the ball that the renderer clips rays to.
        shell = rng.normal(size=(4000, 3))
        shell *= 0.95 / np.linalg.norm(shell, axis=1, keepdims=True)
        assert (solid.distance(shell) > 0).all()
        assert (distance < 0).mean() > 0.002
        # Sphere tracing with a factor of 0.85 never steps over a surface: no point inside lies nearer
        # to a point outside than 0.85 times the distance claimed there.
        inside = points[distance < 0]
        outside, claimed = points[distance > 0.02][:600], distance[distance > 0.02][:600]
        nearest = np.linalg.norm(outside[:, None] - inside[None], axis=-1).min(axis=1)
        assert (0.85 * claimed <= nearest + 1e-6).all()


def test_bounding_sphere_holds_all_points_and_is_hardly_larger_than_the_smallest():
    rng = np.random.default_rng(0)
    on_sphere = rng.normal(size=(500, 3))
    on_sphere = on_sphere / np.linalg.norm(on_sphere, axis=1, keepdims=True) * 0.7 + [0.3, -1.0, 2.0]
    center, radius = bounding_sphere(on_sphere)
    assert np.linalg.norm(center - [0.3, -1.0, 2.0]) < 0.03 and 0.69 < radius < 0.715
    # A long thin thing: the sphere around its two ends is the smallest one.
    rod = np.stack([np.linspace(-1, 1, 100), 0.05 * rng.uniform(-1, 1, 100), np.zeros(100)], axis=1)
    center, radius = bounding_sphere(rod)
    assert (np.linalg.norm(rod - center, axis=1) <= radius + 1e-9).all() and 1.0 <= radius < 1.02


@pytest.mark.parametrize("name", CLASSES)
def test_the_bounding_sphere_is_the_same_for_all(name):
    for seed in range(2):
        vertices, _ = build_solid(name, np.random.default_rng(seed)).mesh(64)
        assert np.linalg.norm(vertices, axis=1).max() == pytest.approx(RADIUS, rel=0.015)
        # The sphere could be no smaller: the solid touches it on more than one side.
        far = vertices[np.linalg.norm(vertices, axis=1) > 0.95 * RADIUS]
        assert (far.min(axis=0) < 0).any() and np.ptp(far, axis=0).max() > RADIUS


def test_the_bounding_sphere_fills_the_frame_as_recorded():
    ball = Solid.from_parts([Part(Kind.ELLIPSOID, (3, 2, 1), (4, 4, 4))])
    for index in range(40):
        thing = sample_instance(6, index)
        assert 0.8 <= thing.fill <= 0.95
        assert thing.labels()["fill"] == thing.fill and thing.labels()["radius"] == RADIUS
    rgb = render(ball, thing.appearance, thing.cameras, 128, 2)[0]
    shown = np.abs(rgb - thing.appearance.background).max(-1) > 0.02
    for axis in (0, 1):
        assert shown.any(axis=axis).sum() == pytest.approx(128 * thing.fill, abs=2.1)


def test_supersampling_at_edges_alone_is_nearly_supersampling_everywhere():
    thing = draw_instance(np.random.default_rng(0), "bear", "blue", "dotted")
    everywhere = render(thing.solid, thing.appearance, thing.cameras, 64 * 3, 1)[0]
    everywhere = everywhere.reshape(64, 3, 64, 3, 3).mean(axis=(1, 3))
    once, at_edges = (render(thing.solid, thing.appearance, thing.cameras, 64, rays)[0] for rays in (1, 3))
    assert np.abs(at_edges - everywhere).max() < 0.12 and np.abs(at_edges - everywhere).mean() < 0.002
    assert np.abs(once - everywhere).max() > 0.3


@pytest.mark.parametrize("name", CLASSES)
def test_fronts_are_told_from_sides_and_backs(name):
    solid = build_solid(name, np.random.default_rng(3))
    look = sample_appearance(name, "blue", "plain", np.random.default_rng(3))
    azimuth = torch.tensor([0.0, 90.0, 180.0])
    cameras = orbit_cameras(azimuth, torch.full((3,), 15.0), torch.full((3,), 2.8), torch.full((3,), 40.0))
    front, side, back = render(solid, look, cameras, 48, 1)
    for a, b in ((front, side), (front, back), (side, back)):
        assert np.abs(a - b).mean() > 0.004


def test_pictures_follow_the_cameras_conventions():
    # A ball at the object's left (+x) shows on the right of a front view and hides behind nothing.
    solid = _raw(Part(Kind.ELLIPSOID, (0.5, 0, 0), (0.2, 0.2, 0.2)), Part(Kind.ELLIPSOID, (0, 0.5, 0), (0.1, 0.1, 0.1)))
    look = sample_appearance("duck", "red", "plain", np.random.default_rng(0))
    shown = np.abs(render(solid, look, orbit_cameras(*_one(0, 0, 3, 40)), 32, 1)[0] - look.background).max(-1) > 0.05
    rows, columns = np.nonzero(shown)
    assert columns.max() > 20 and columns.min() >= 13  # right half, and the small ball in the middle
    assert rows.min() < 12  # the small ball is up
    # From azimuth 90 (on +x) the left ball is in the middle.
    shown = np.abs(render(solid, look, orbit_cameras(*_one(90, 0, 3, 40)), 32, 1)[0] - look.background).max(-1) > 0.05
    assert abs(np.nonzero(shown)[1].mean() - 15.5) < 1


def test_the_mesh_agrees_with_the_solid():
    solid = build_solid("teapot", np.random.default_rng(0))
    vertices, faces = solid.mesh(64)
    assert np.abs(solid.distance(vertices)).max() < 0.02
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    volume = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6
    points = np.random.default_rng(1).uniform(-1, 1, (200_000, 3))
    assert volume == pytest.approx(8 * solid.occupancy(points).mean(), rel=0.05)  # positive: faces look outward


def test_world_is_large_enough_and_holds_pairs_out():
    assert len(CLASSES) >= 24 and len(COLORS) >= 12 and len(PATTERNS) >= 3
    pairs = held_out_pairs()
    assert 0.09 < len(pairs) / (len(CLASSES) * len(COLORS)) < 0.11
    assert all(name in CLASSES and color in COLORS for name, color in pairs)
    drawn = [sample_instance(0, i) for i in range(300)]
    assert not any((d.class_name, d.color) in pairs for d in drawn)
    assert all((d.class_name, d.color) in pairs for d in (sample_instance(0, i, held_out=True) for i in range(20)))


def test_captions_tell_the_truth_and_cover_the_grammar():
    rng, words = np.random.default_rng(0), set(vocabulary())
    drawn = [sample_caption("mug", "orange", "striped", "side", rng) for _ in range(800)]
    assert 0.05 < drawn.count("") / 800 < 0.15
    used = {token for caption in drawn for token in caption.replace(",", " ,").split()}
    assert used <= words
    assert not used & (
        (set(COLORS) | set(PATTERNS) | set(VIEW_WORDS) | set(CLASSES)) - {"mug", "orange", "striped", "side"}
    )
    assert {"a mug", "a striped orange mug, side view", "an orange mug"} <= set(drawn)
    assert compose("house", "white", None, "front", "photo") == "a photo of a white house, front view"


def test_instances_are_deterministic_and_vary():
    a, b, c = sample_instance(4, 9), sample_instance(4, 9), sample_instance(4, 10)
    assert a.caption == b.caption and (a.picture() == b.picture()).all()
    assert (a.picture() != c.picture()).any()
    views = {draw_instance(np.random.default_rng(i), view=view).view for i, view in enumerate(VIEW_WORDS)}
    assert views == set(VIEW_WORDS)
    with pytest.raises(ValueError, match="held_out"):
        draw_instance(np.random.default_rng(0), *next(iter(held_out_pairs())), held_out=False)


def test_dataset_shards_are_reused(tmp_path):
    images, labels = render_dataset(tmp_path, 4, seed=2, processes=1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again, _ = render_dataset(tmp_path, 4, seed=2, processes=1)
    assert (images == again).all() and {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert (images[3] == sample_instance(2, 3).picture()).all() and labels[3] == sample_instance(2, 3).labels()


def test_unknown_class_is_named():
    with pytest.raises(ValueError, match="'dragon'"):
        build_solid("dragon", np.random.default_rng(0))
