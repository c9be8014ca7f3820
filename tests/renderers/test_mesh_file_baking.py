from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from models.mesh_file import MeshFile, read_mesh_file
from models.placement import Placement
from renderers.config import BakingConfig
from renderers.mesh_file_baking import bake_mesh_file, mesh_atlas, textured
from renderers.textured_export import read_textured_glb, sample_texture, textured_glb, textured_obj
from tests.models.gltf_files import GltfBuilder

CONFIG = BakingConfig(texture_size=64)


def box_of_two_parts(path: Path, uv: bool) -> Path:
    """A box and a second, turned and moved instance of it, with sharp edges; far from the origin."""
    shape = trimesh.creation.box([1.0, 2.0, 3.0])
    corners, normals = shape.triangles.reshape(-1, 3), np.repeat(shape.face_normals, 3, axis=0)
    faces = np.arange(len(corners)).reshape(-1, 3)
    gltf = GltfBuilder()
    attributes = {"normal": normals}
    if uv:  # a cell of a 4 x 4 grid for each triangle
        cell = np.stack([np.arange(12) % 4, np.arange(12) // 4], axis=1)[:, None] / 4
        attributes["uv"] = (cell + np.array([[0.02, 0.02], [0.2, 0.02], [0.02, 0.2]])).reshape(-1, 2)
    material = gltf.material("bare")
    mesh = gltf.mesh(gltf.primitive(corners, faces, material=material, **attributes))
    gltf.node(mesh, translation=[50.0, 0.0, 0.0])
    if not uv:
        gltf.node(mesh, translation=[50.0, 7.0, 0.0], rotation=[0.0, np.sqrt(0.5), 0.0, np.sqrt(0.5)])
    return gltf.write(path)


def color(points: torch.Tensor) -> torch.Tensor:
    return 0.5 + 0.4 * points.clamp(-1, 1)


def baked(mesh: MeshFile, keep_uv: bool, suffix: str = ".glb"):
    placement = Placement.fit(mesh.vertices, *mesh.convention, radius=1.0)
    found = mesh_atlas(mesh, CONFIG, keep_uv)
    texture = bake_mesh_file(mesh, placement, found.atlas, color, CONFIG)
    return placement, found, textured(mesh, found.atlas, texture, suffix)


@pytest.mark.parametrize("uv", [False, True])
def test_the_users_mesh_comes_back_with_a_texture(tmp_path: Path, uv: bool) -> None:
    mesh = read_mesh_file(box_of_two_parts(tmp_path / "in.glb", uv))
    placement, found, result = baked(mesh, keep_uv=True)
    assert (found.replaced is None) == uv
    (tmp_path / "out.glb").write_bytes(textured_glb(result))
    again = read_textured_glb(tmp_path / "out.glb")
    # The same triangles in the same order, bit by bit, with the file's normals.
    assert torch.equal(again.vertices[again.faces], torch.from_numpy(mesh.vertices[mesh.faces]).float())
    torch.testing.assert_close(
        again.normals[again.faces], torch.from_numpy(mesh.normals[mesh.faces]).float(), rtol=0, atol=1e-5
    )
    if uv:
        expected = torch.from_numpy(mesh.uv[mesh.faces]).float()
        torch.testing.assert_close(again.uv[again.faces], expected, rtol=0, atol=1e-6)
    # The texture shows the colours that the scene has at those places.
    middles = torch.from_numpy(placement.to_scene(mesh.vertices[mesh.faces].mean(axis=1))).float()
    seen = sample_texture(again, again.uv[again.faces].mean(1))
    torch.testing.assert_close(seen, color(middles), rtol=0, atol=0.06)


def test_coordinates_that_overlap_are_replaced(tmp_path: Path) -> None:
    mesh = read_mesh_file(box_of_two_parts(tmp_path / "in.glb", uv=True))
    assert mesh_atlas(mesh, CONFIG, keep_uv=False).replaced == "appearance.keep_uv is off"
    gathered = replace(mesh, uv=np.tile(mesh.uv[:3], (len(mesh.uv) // 3, 1)))
    found = mesh_atlas(gathered, CONFIG)
    assert "belong to more than one face" in found.replaced
    assert len(found.atlas.faces) == len(mesh.faces)
    assert torch.equal(found.atlas.source[found.atlas.faces], torch.from_numpy(mesh.faces.copy()))


def test_obj_has_the_same_places(tmp_path: Path) -> None:
    mesh = read_mesh_file(box_of_two_parts(tmp_path / "in.glb", uv=False))
    for name, content in textured_obj("out", baked(mesh, keep_uv=True, suffix=".obj")[2]).items():
        (tmp_path / name).write_bytes(content)
    again = read_mesh_file(tmp_path / "out.obj")
    size = np.ptp(mesh.vertices, axis=0).max()
    assert np.abs(again.vertices[again.faces] - mesh.vertices[mesh.faces]).max() < 1e-5 * size


def test_what_stands_in_stl_stands_in_glb(tmp_path: Path) -> None:
    """STL's up is z, glTF's is y: the object stands, instead of keeping the numbers of its coordinates."""
    tall = trimesh.creation.box([1.0, 2.0, 5.0])
    tall.export(tmp_path / "in.stl")
    mesh = read_mesh_file(tmp_path / "in.stl")
    result = baked(mesh, keep_uv=True)[2]
    assert np.ptp(result.vertices.numpy(), axis=0).tolist() == [1.0, 5.0, 2.0]
    front = result.vertices[result.faces][mesh.vertices[mesh.faces][:, :, 1].max(1) < 0]
    assert len(front) == 2 and (front[..., 2] == 1.0).all()  # what faced -y faces z


def test_degenerate_and_doubled_faces_are_taken_as_they_are(tmp_path: Path) -> None:
    box = trimesh.creation.box([1.0, 2.0, 3.0])
    spike = np.concatenate([box.vertices, [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]])
    faces = np.concatenate([[[0, 0, 1], [8, 9, 10], [3, 3, 3]], box.faces, box.faces[:2], box.faces[2:4, ::-1]])
    trimesh.Trimesh(spike, faces, process=False).export(tmp_path / "in.ply")
    mesh = read_mesh_file(tmp_path / "in.ply")
    _, found, result = baked(mesh, keep_uv=True, suffix=".ply")
    assert found.replaced == "the mesh has no texture coordinates"
    assert torch.equal(result.vertices[result.faces], torch.from_numpy(mesh.vertices[mesh.faces]).float())
