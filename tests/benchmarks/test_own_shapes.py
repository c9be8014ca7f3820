from __future__ import annotations

import numpy as np
import pytest
import trimesh

from benchmarks import own_shapes
from models.mesh_distance import solid_of
from models.mesh_file import read_mesh_file


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A chair of the world, as it is and smoothed."""
    folder = tmp_path_factory.mktemp("shapes")
    return [own_shapes.write_shape("a yellow chair", folder, smoothed) for smoothed in (False, True)]


def score(path):
    given = solid_of(*read_mesh_file(path).welded)
    return own_shapes.volume_iou(given, solid_of(*own_shapes.true_shape("chair")))


def test_a_shape_has_no_colours_and_stands_elsewhere(shapes):
    mesh = read_mesh_file(shapes[0])
    assert not mesh.is_colored
    assert np.ptp(mesh.vertices, axis=0).max() > 10 and mesh.vertices[:, 0].min() > 80
    assert score(shapes[0]) > 0.999


def test_smoothing_costs_a_part_of_the_shape(shapes):
    assert 0.5 < score(shapes[1]) < 0.9


def test_volumes_are_compared_where_they_are():
    cubes = [trimesh.creation.box((2, 2, 2)).apply_translation((x, 0, 0)) for x in (0.0, 1.0)]
    one, other = (solid_of(np.asarray(cube.vertices), np.asarray(cube.faces)) for cube in cubes)
    assert own_shapes.volume_iou(one, one) == 1
    assert own_shapes.volume_iou(one, other) == pytest.approx(1 / 3, abs=0.01)


def test_moved_is_a_share_of_the_size(shapes, tmp_path):
    assert own_shapes.moved(shapes[0], shapes[0]) == 0
    scene = trimesh.load_scene(shapes[0], process=False)
    size = np.ptp(scene.bounds, axis=0).max()
    scene.apply_translation([0, 0.01 * size, 0])
    scene.export(tmp_path / "moved.glb")
    assert own_shapes.moved(shapes[0], tmp_path / "moved.glb") == pytest.approx(0.01, rel=1e-3)
