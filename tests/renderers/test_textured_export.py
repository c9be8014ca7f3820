"""Baking and files: fidelity of the texture, and what independent programs read from the files."""

from __future__ import annotations

import functools

import assimp_py
import numpy as np
import pygltflib
import pytest
import torch
import trimesh
from PIL import Image

from models.mesh import Mesh
from models.mesh_geometry import mesh_edges, signed_volume
from renderers import texture_baking
from renderers.cameras import turntable_cameras
from renderers.config import BakingConfig
from renderers.mesh_renderer import MeshRenderer
from renderers.rasterizer import Rasterizer, ScreenVertices
from renderers.texture_baking import bake, simplify, unwrap
from renderers.textured_export import (
    colored_ply,
    read_textured_glb,
    sample_texture,
    textured_glb,
    textured_obj,
)
from renderers.uv_layout import uv_layout
from tests.renderers.meshes import icosphere

CAMERAS = turntable_cameras(4, elevation_deg=20, distance=1.8, fovy_deg=45)


def smooth_color(points):
    x, y, z = points.unbind(-1)
    return 0.5 + 0.4 * torch.sin(torch.stack([7 * x, 5 * y + 3 * z, 9 * z], dim=-1))


@functools.cache
def bumpy(subdivisions=4):
    vertices, faces = icosphere(subdivisions)
    return vertices * (1 + 0.1 * torch.sin(8 * vertices).prod(-1, keepdim=True)), faces


@functools.cache
def textured(size=256, max_faces=1200):
    return bake(*bumpy(), smooth_color, BakingConfig(texture_size=size, max_faces=max_faces))


def write_glb(path, mesh):
    path.write_bytes(textured_glb(mesh))
    return path


def write_obj(path, mesh):
    for name, content in textured_obj(path.stem, mesh).items():
        path.with_name(name).write_bytes(content)


def psnr(got, expected):
    return -10 * (got - expected).square().mean().log10().item()


def render(vertices, faces, shade):
    return MeshRenderer().render(vertices, faces, shade, CAMERAS, 128, 128, torch.ones(4, 3))


def test_a_baked_file_looks_like_the_field(tmp_path):
    """The field on the full surface against the file's texture on the file's fewer faces."""
    vertices, faces = bumpy(5)
    write_glb(tmp_path / "a.glb", bake(vertices, faces, smooth_color, BakingConfig(max_faces=8000)))
    mesh = read_textured_glb(tmp_path / "a.glb")
    assert mesh.texture.shape == (1024, 1024, 3) and 7000 < len(mesh.faces) <= 8000
    expected = render(vertices, faces, lambda points: smooth_color(points.positions))
    got = render(mesh.vertices, mesh.faces, lambda points: sample_texture(mesh, points.interpolate(mesh.uv)))
    assert psnr(got.rgb, expected.rgb) > 32
    inside = (got.opacity[..., 0] == 1) & (expected.opacity[..., 0] == 1)
    assert psnr(got.rgb[inside], expected.rgb[inside]) > 38


def test_seams_show_no_foreign_colour():
    """A texture of one colour has that colour everywhere, beyond the charts too."""
    mesh = bake(*bumpy(3), lambda points: torch.tensor([0.2, 0.6, 0.8]).expand(len(points), 3), BakingConfig(64))
    assert torch.equal(mesh.texture, torch.tensor([51, 153, 204], dtype=torch.uint8).expand(64, 64, 3))


def test_charts_do_not_overlap_and_keep_their_distance():
    vertices, faces = bumpy(3)
    atlas = unwrap(vertices, faces, 256, 2)
    assert torch.equal(atlas.source[atlas.faces], faces)
    a, b, c = atlas.uv.double()[atlas.faces].unbind(1)
    areas = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).abs() / 2
    owner = torch.from_numpy(
        trimesh.graph.connected_component_labels(trimesh.graph.face_adjacency(atlas.faces.numpy()), len(faces))
    )
    covered = torch.zeros(256, 256, dtype=torch.int64)
    for chart in owner.unique():  # every chart alone, drawn onto what others cover
        screen = ScreenVertices((atlas.uv * 256)[None], torch.ones(1, len(atlas.uv)))
        covered += Rasterizer().visible_faces(screen, atlas.faces[owner == chart], 256, 256)[0] >= 0
    assert covered.max() == 1
    assert 0.4 < areas.sum() < 1


def test_a_surface_of_many_faces_is_unwrapped_in_pieces(monkeypatch):
    monkeypatch.setattr(texture_baking, "WHOLE", 1000)
    monkeypatch.setattr(texture_baking, "PIECE", 200)
    vertices, faces = bumpy(3)
    atlas = unwrap(vertices, faces, 256, 2)
    assert torch.equal(atlas.source[atlas.faces], faces)  # in the surface's order
    assert uv_layout(vertices[faces], atlas.uv[atlas.faces], 256).problem is None


def test_simplified_meshes_stay_closed_and_in_place():
    vertices, faces = bumpy(5)
    fewer_vertices, fewer_faces = simplify(vertices, faces, 3000)
    assert 2900 <= len(fewer_faces) <= 3000
    assert mesh_edges(fewer_faces).closed
    assert signed_volume(fewer_vertices, fewer_faces) == pytest.approx(signed_volume(vertices, faces).item(), rel=0.005)
    for kept in (0, len(faces)):
        assert simplify(vertices, faces, kept)[1] is faces


def test_glb_comes_back_as_it_was(tmp_path):
    mesh = textured()
    write_glb(tmp_path / "a.glb", mesh)
    got = read_textured_glb(tmp_path / "a.glb")
    for name in ("vertices", "normals", "uv"):
        torch.testing.assert_close(getattr(got, name), getattr(mesh, name), atol=1e-6, rtol=0)
    assert torch.equal(got.faces, mesh.faces) and torch.equal(got.texture, mesh.texture)


def test_lengths_are_in_metres(tmp_path):
    (tmp_path / "a.glb").write_bytes(textured_glb(textured(), meters_per_unit=0.25))
    torch.testing.assert_close(read_textured_glb(tmp_path / "a.glb").vertices, textured().vertices * 0.25)
    with pytest.raises(ValueError, match="meters_per_unit: 0 must be positive"):
        textured_glb(textured(), meters_per_unit=0)


def accessor(gltf, index):
    """An accessor's values, read from the buffer by hand."""
    entry = gltf.accessors[index]
    view = gltf.bufferViews[entry.bufferView]
    kind = {5126: np.float32, 5125: np.uint32, 5123: np.uint16}[entry.componentType]
    width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}[entry.type]
    start = (view.byteOffset or 0) + (entry.byteOffset or 0)
    return np.frombuffer(gltf.binary_blob(), kind, entry.count * width, start).reshape(entry.count, width)


def test_pygltflib_reads_the_glb(tmp_path):
    mesh = textured()
    write_glb(tmp_path / "a.glb", mesh)
    gltf = pygltflib.GLTF2().load(str(tmp_path / "a.glb"))
    (primitive,) = gltf.meshes[0].primitives
    np.testing.assert_allclose(accessor(gltf, primitive.attributes.POSITION), mesh.vertices, atol=1e-6)
    np.testing.assert_allclose(accessor(gltf, primitive.attributes.NORMAL), mesh.normals, atol=1e-6)
    np.testing.assert_allclose(accessor(gltf, primitive.attributes.TEXCOORD_0), mesh.uv, atol=1e-6)
    assert np.array_equal(accessor(gltf, primitive.indices).reshape(-1, 3), mesh.faces)
    material = gltf.materials[primitive.material].pbrMetallicRoughness
    assert (material.metallicFactor, material.roughnessFactor) == (0, 1)
    image = gltf.images[gltf.textures[material.baseColorTexture.index].source]
    view = gltf.bufferViews[image.bufferView]
    (tmp_path / "a.png").write_bytes(gltf.binary_blob()[view.byteOffset : view.byteOffset + view.byteLength])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png").convert("RGB")), mesh.texture)


@pytest.mark.parametrize("suffix", ["glb", "obj"])
def test_assimp_reads_the_files(tmp_path, suffix):
    mesh = textured()
    path = tmp_path / f"a.{suffix}"
    {"glb": write_glb, "obj": write_obj}[suffix](path, mesh)
    scene = assimp_py.import_file(str(path), assimp_py.Process_Triangulate)
    (read,) = scene.meshes
    corners = np.asarray(read.vertices).reshape(-1, 3)[np.asarray(read.indices).reshape(-1)]
    np.testing.assert_allclose(corners, mesh.vertices[mesh.faces].view(-1, 3), atol=1e-5)
    normals = np.asarray(read.normals).reshape(-1, 3)[np.asarray(read.indices).reshape(-1)]
    np.testing.assert_allclose(normals, mesh.normals[mesh.faces].view(-1, 3), atol=1e-5)


def test_trimesh_reads_the_obj_with_its_texture(tmp_path):
    mesh = textured()
    write_obj(tmp_path / "a.obj", mesh)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.mtl", "a.obj", "a.png"]
    read = trimesh.load_mesh(tmp_path / "a.obj", process=False)
    assert len(read.faces) == len(mesh.faces)
    corners = torch.from_numpy(np.asarray(read.vertices)[read.faces]).float()
    torch.testing.assert_close(corners, mesh.vertices[mesh.faces], atol=1e-6, rtol=0)
    uv = torch.from_numpy(np.asarray(read.visual.uv)[read.faces]).float()
    torch.testing.assert_close(1 - uv[..., 1], mesh.uv[mesh.faces][..., 1], atol=1e-6, rtol=0)
    assert np.array_equal(np.asarray(read.visual.material.image.convert("RGB")), mesh.texture)


def test_obj_names_are_checked():
    with pytest.raises(ValueError, match="stem: 'my chair' must hold no spaces"):
        textured_obj("my chair", textured())


def test_ply_holds_vertex_colours(tmp_path):
    shape = textured()
    colored = Mesh(shape.vertices, shape.faces, smooth_color(shape.vertices))
    (tmp_path / "a.ply").write_bytes(colored_ply(colored))
    read = trimesh.load_mesh(tmp_path / "a.ply", process=False)
    assert np.array_equal(read.faces, colored.faces)
    got = torch.from_numpy(np.asarray(read.visual.vertex_colors)[:, :3]).float() / 255
    torch.testing.assert_close(got, colored.colors, atol=0.003, rtol=0)


def test_an_unlit_model_differs_in_its_material_alone():
    lit, unlit = (pygltflib.GLTF2().load_from_bytes(textured_glb(textured(), unlit=unlit)) for unlit in (False, True))
    assert not lit.extensionsUsed and not lit.materials[0].extensions
    assert unlit.extensionsUsed == ["KHR_materials_unlit"] and not unlit.extensionsRequired
    assert unlit.materials[0].extensions == {"KHR_materials_unlit": {}}
    assert unlit.binary_blob() == lit.binary_blob() and unlit.accessors == lit.accessors


@pytest.mark.parametrize("unlit", [False, True])
def test_the_validator_finds_nothing(unlit, tmp_path, validator):
    (tmp_path / "a.glb").write_bytes(textured_glb(textured(), unlit=unlit))
    report = validator(tmp_path / "a.glb")
    assert (report.errors, report.warnings) == (0, 0), report.messages


def test_the_validator_finds_what_is_wrong(tmp_path, validator):
    write_glb(tmp_path / "a.glb", textured())
    content = (tmp_path / "a.glb").read_bytes()
    (tmp_path / "b.glb").write_bytes(content.replace(b'"VEC3"', b'"VEC2"', 1))
    assert validator(tmp_path / "b.glb").errors > 0


def test_an_empty_mesh_and_a_diverged_field_are_errors():
    vertices, faces = bumpy(2)
    with pytest.raises(ValueError, match="faces: the mesh is empty"):
        bake(vertices, faces[:0], smooth_color)
    with pytest.raises(ValueError, match=r"color: \d+ of \d+ texels are not finite"):
        bake(vertices, faces, lambda points: points / 0, BakingConfig(texture_size=32))
