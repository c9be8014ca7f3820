from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh

from models.mesh_colors import MeshColors, barycentric, sample_repeating
from models.mesh_file import read_mesh_file, srgb_from_linear
from tests.models.gltf_files import GltfBuilder

SQUARE = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
TWO = np.array([[0, 1, 2], [0, 2, 3]])
TOP_DOWN = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])  # of the square: y = 1 is the texture's top
QUARTERS = np.zeros((64, 64, 3), np.uint8)
QUARTERS[:32, :32], QUARTERS[:32, 32:], QUARTERS[32:, :32] = [255, 0, 0], [0, 255, 0], [0, 0, 255]


def test_texture_of_the_nearest_place(tmp_path: Path) -> None:
    gltf = GltfBuilder()
    material = gltf.material("quarters", texture=gltf.texture(QUARTERS))
    plain = gltf.material("plain", factor=[0.2, 0.4, 0.6, 1.0])
    textured = gltf.primitive(SQUARE, TWO, uv=TOP_DOWN, material=material)
    gltf.node(
        gltf.mesh(textured, gltf.primitive(SQUARE + np.array([2, 0, 0]), TWO, material=plain)), scale=[10.0, 10.0, 10.0]
    )
    color = MeshColors(read_mesh_file(gltf.write(tmp_path / "a.glb")))
    points = np.array([[2.5, 7.5, 1.0], [7.5, 7.5, -2.0], [2.5, 2.5, 0.0], [7.5, 2.5, 0.3], [25.0, 5.0, 1.0]])
    expected = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], srgb_from_linear(np.array([0.2, 0.4, 0.6]))])
    np.testing.assert_allclose(color(points), expected, atol=5e-3)


def test_vertex_colors_multiply_light(tmp_path: Path) -> None:
    gltf = GltfBuilder()
    material = gltf.material("half", factor=[0.5, 0.5, 0.5, 1.0])
    colors = np.array([[1.0, 0.5, 0.0]] * 4)
    gltf.node(gltf.mesh(gltf.primitive(SQUARE, TWO, color=colors, material=material)))
    found = MeshColors(read_mesh_file(gltf.write(tmp_path / "a.glb")))(np.array([[0.4, 0.5, 0.1]]))
    np.testing.assert_allclose(found[0], srgb_from_linear(np.array([0.5, 0.25, 0.0])), atol=5e-3)


def test_vertex_colors_are_interpolated(tmp_path: Path) -> None:
    colors = np.array([[0, 0, 0], [255, 0, 0], [255, 255, 0], [0, 255, 0]], np.uint8)
    trimesh.Trimesh(SQUARE, TWO, vertex_colors=colors, process=False).export(tmp_path / "a.ply")
    color = MeshColors(read_mesh_file(tmp_path / "a.ply"))
    np.testing.assert_allclose(color(SQUARE), colors / 255, atol=1e-6)
    assert color(np.array([[0.5, 0.5, 0.0]]))[0, 2] == 0


def test_no_colors_are_grey(tmp_path: Path) -> None:
    trimesh.creation.box().export(tmp_path / "a.stl")
    mesh = read_mesh_file(tmp_path / "a.stl")
    assert not mesh.is_colored
    np.testing.assert_allclose(MeshColors(mesh)(np.zeros((1, 3))), 0.5, atol=1e-6)


def test_textures_repeat() -> None:
    uv = np.array([[0.25, 0.25], [1.25, -0.75], [-3.75, 2.25]])
    np.testing.assert_allclose(sample_repeating(QUARTERS, uv), [[1, 0, 0]] * 3, atol=1e-9)
    np.testing.assert_allclose(sample_repeating(QUARTERS, np.array([[0.5, 0.25]])), [[0.5, 0.5, 0]], atol=1e-9)


def test_barycentric_weights_rebuild_the_points() -> None:
    rng = np.random.default_rng(0)
    triangles, weights = rng.normal(size=(100, 3, 3)), rng.dirichlet([1, 1, 1], 100)
    points = (triangles * weights[..., None]).sum(axis=1)
    np.testing.assert_allclose(barycentric(points, triangles), weights, atol=1e-9)
    assert barycentric(np.ones((1, 3)), np.ones((1, 3, 3))).tolist() == [[1, 0, 0]]


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_barycentric_weights_at_any_scale(scale: float) -> None:
    found = barycentric(scale * SQUARE[[1]], scale * SQUARE[TWO[:1]])
    np.testing.assert_allclose(found, [[0, 1, 0]], atol=1e-9)
