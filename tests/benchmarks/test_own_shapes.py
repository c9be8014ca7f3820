from __future__ import annotations

import numpy as np
import pytest
import trimesh

from benchmarks import own_shapes
from benchmarks.world_shapes import shape_score
from models.mesh_file import read_mesh_file
from tests.evaluation.shapes import as_mesh


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A chair of the world, as it is and smoothed."""
    folder = tmp_path_factory.mktemp("shapes")
    return [own_shapes.write_shape("a yellow chair", folder, smoothed) for smoothed in (False, True)]


def score(path):
    mesh = read_mesh_file(path)
    return shape_score(as_mesh(*mesh.welded), "chair", 1, own_shapes.SEED).iou


def test_a_shape_has_no_colours_and_stands_elsewhere(shapes):
    mesh = read_mesh_file(shapes[0])
    assert not mesh.is_colored
    assert np.ptp(mesh.vertices, axis=0).max() > 10 and mesh.vertices[:, 0].min() > 80
    assert score(shapes[0]) > 0.9  # what alignment and cells leave


def test_smoothing_costs_a_part_of_the_shape(shapes):
    assert 0.5 < score(shapes[1]) < score(shapes[0]) - 0.05


def test_moved_is_a_share_of_the_size(shapes, tmp_path):
    assert own_shapes.moved(shapes[0], shapes[0]) == 0
    scene = trimesh.load_scene(shapes[0], process=False)
    size = np.ptp(scene.bounds, axis=0).max()
    scene.apply_translation([0, 0.01 * size, 0])
    scene.export(tmp_path / "moved.glb")
    assert own_shapes.moved(shapes[0], tmp_path / "moved.glb") == pytest.approx(0.01, rel=1e-3)
