from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from models.mesh_file import linear_from_srgb, read_mesh_file, srgb_from_linear, time_note
from models.placement import Placement, axes_rotation, between_formats
from tests.models.gltf_files import USHORT, GltfBuilder

TRIANGLE = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
FACE = np.array([[0, 1, 2]])
QUARTER_ABOUT_X = [np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)]  # y becomes z, z becomes -y
RED = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)


def nested(path: Path) -> Path:
    """Two materials, three instances: a parent that turns and moves, a child that scales, a mirrored one."""
    gltf = GltfBuilder()
    uv = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    textured = gltf.material("textured", texture=gltf.texture(RED))
    plain = gltf.material("plain", factor=[0.5, 0.25, 1.0, 1.0])
    first = gltf.primitive(TRIANGLE, FACE, uv=uv, material=textured)
    second = gltf.primitive(TRIANGLE + 5, FACE, material=plain)
    both, single = gltf.mesh(first, second, name="both"), gltf.mesh(gltf.primitive(TRIANGLE, FACE), name="single")
    child = gltf.node(single, root=False, scale=[2.0, 3.0, 4.0])
    gltf.node(both, rotation=QUARTER_ABOUT_X, translation=[10.0, 0.0, 0.0], children=[child], name="parent")
    gltf.node(single, scale=[-1.0, 1.0, 1.0], name="mirrored")
    return gltf.write(path)


def corners(mesh) -> dict[str, np.ndarray]:
    return {
        part.name.split("_")[0] + (part.material.name if part.material else ""): mesh.vertices[
            mesh.faces[mesh.part == number]
        ]
        for number, part in enumerate(mesh.parts)
    }


@pytest.mark.parametrize("suffix", [".glb", ".gltf"])
def test_node_transforms_by_hand(tmp_path: Path, suffix: str) -> None:
    mesh = read_mesh_file(nested(tmp_path / f"nested{suffix}"))
    found = corners(mesh)

    def turned(points: np.ndarray) -> np.ndarray:
        return np.stack([points[:, 0] + 10, -points[:, 2], points[:, 1]], axis=1)

    np.testing.assert_allclose(found["parenttextured"][0], turned(TRIANGLE), atol=1e-6)
    np.testing.assert_allclose(found["parentplain"][0], turned(TRIANGLE + 5), atol=1e-6)
    np.testing.assert_allclose(found["0"][0], turned(TRIANGLE * [2, 3, 4]), atol=1e-6)
    # Mirrored, and turned round so that its front stays the side that was.
    np.testing.assert_allclose(found["mirrored"][0], (TRIANGLE * [-1, 1, 1])[::-1], atol=1e-6)
    assert len(mesh.parts) == 4 and len(mesh.faces) == 4 and (np.diff(mesh.part) >= 0).all()


def test_equals_the_scene_dump_of_trimesh(tmp_path: Path) -> None:
    path = nested(tmp_path / "nested.glb")
    mesh, dumped = read_mesh_file(path), trimesh.load_scene(path, process=False).to_mesh()
    ours = mesh.vertices[mesh.faces].mean(axis=1)
    theirs = dumped.triangles.mean(axis=1)
    order = [np.lexsort(centres.round(4).T) for centres in (ours, theirs)]
    np.testing.assert_allclose(ours[order[0]], theirs[order[1]], atol=1e-6)
    normals = np.cross(*np.moveaxis(np.diff(mesh.vertices[mesh.faces], axis=1), 1, 0))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    np.testing.assert_allclose(normals[order[0]], dumped.face_normals[order[1]], atol=1e-6)


def test_reading_twice_gives_the_same_order(tmp_path: Path) -> None:
    path = nested(tmp_path / "nested.glb")
    first, second = read_mesh_file(path), read_mesh_file(path)
    assert np.array_equal(first.vertices, second.vertices) and np.array_equal(first.faces, second.faces)


def test_normals_stay_normal_to_the_faces(tmp_path: Path) -> None:
    """Normals that the file gives, under a scale that is not uniform, in a mirror, and with a turn."""
    gltf = GltfBuilder()
    slanted = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    normal = np.tile([0.0, -np.sqrt(0.5), np.sqrt(0.5)], (3, 1))
    mesh = gltf.mesh(gltf.primitive(slanted, FACE, normal=normal))
    gltf.node(mesh, scale=[1.0, 5.0, 0.5], rotation=QUARTER_ABOUT_X)
    gltf.node(mesh, scale=[1.0, -5.0, 0.5])
    found = read_mesh_file(gltf.write(tmp_path / "slanted.glb"))
    a, b, c = np.moveaxis(found.vertices[found.faces], 1, 0)
    faces = np.cross(b - a, c - a)
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    np.testing.assert_allclose(found.normals[found.faces[:, 0]], faces, atol=1e-6)


def test_colors_of_gltf(tmp_path: Path) -> None:
    mesh = read_mesh_file(nested(tmp_path / "nested.glb"))
    materials = {part.material.name: part.material for part in mesh.parts if part.material}
    assert np.array_equal(materials["textured"].texture, RED)
    # The factor is linear light: 0.5 is 0.735 in sRGB. trimesh keeps it in steps of 1/255.
    np.testing.assert_allclose(materials["plain"].color, [0.7354, 0.5371, 1.0], atol=4e-3)
    textured = mesh.part == next(i for i, p in enumerate(mesh.parts) if p.material and p.material.texture is not None)
    np.testing.assert_allclose(mesh.uv[mesh.faces[textured][0]], [[0, 0], [1, 0], [0, 1]], atol=1e-6)
    assert np.isnan(mesh.uv[mesh.faces[~textured]]).all()
    assert mesh.is_colored and mesh.colors is None


def test_vertex_colors(tmp_path: Path) -> None:
    gltf = GltfBuilder()
    colors = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.2, 0.2, 0.2]])
    gltf.node(gltf.mesh(gltf.primitive(TRIANGLE, FACE, color=colors)))
    mesh = read_mesh_file(gltf.write(tmp_path / "colors.glb"))
    np.testing.assert_allclose(mesh.colors[0], srgb_from_linear(colors), atol=0.01)  # linear in glTF
    shape = trimesh.Trimesh(TRIANGLE, FACE, vertex_colors=np.array([[255, 0, 51]] * 3, np.uint8), process=False)
    shape.export(tmp_path / "colors.ply")
    np.testing.assert_allclose(read_mesh_file(tmp_path / "colors.ply").colors[0], [[1.0, 0.0, 0.2]] * 3, atol=1e-6)


def test_obj_keeps_the_order_of_faces_of_several_materials(tmp_path: Path) -> None:
    Image.fromarray(RED).save(tmp_path / "paint.png")
    (tmp_path / "m.mtl").write_text("newmtl a\nKd 1 0.5 0\nnewmtl b\nKd 0 0 0\nmap_Kd paint.png\n")
    lines = ["mtllib m.mtl"]
    for k in range(4):
        lines += [f"v {k} 0 0", f"v {k + 1} 0 0", f"v {k} 1 0", "vt 0 0", "vt 1 0", "vt 0 0.75"]
        corners = " ".join(f"{3 * k + i}/{3 * k + i}" for i in (1, 2, 3))
        lines += [f"usemtl {'ab'[k % 2]}", f"f {corners}"]
    (tmp_path / "m.obj").write_text("\n".join(lines))
    mesh = read_mesh_file(tmp_path / "m.obj")
    assert mesh.vertices[mesh.faces[:, 0], 0].tolist() == [0, 1, 2, 3]
    assert [mesh.parts[k].material.name for k in mesh.part] == ["a", "b", "a", "b"]
    np.testing.assert_allclose(mesh.parts[0].material.color, [1, 0.5, 0], atol=4e-3)
    assert np.array_equal(mesh.parts[1].material.texture, RED)
    np.testing.assert_allclose(mesh.uv[mesh.faces[0]], [[0, 1], [1, 1], [0, 0.25]], atol=1e-6)  # from the top


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply", ".stl"])
def test_formats_agree_and_nothing_is_changed(tmp_path: Path, suffix: str) -> None:
    shape = trimesh.creation.icosphere(subdivisions=1)
    path = tmp_path / f"ball{suffix}"
    shape.export(path)
    before = hashlib.sha256(path.read_bytes()).digest()
    mesh = read_mesh_file(path)
    np.testing.assert_allclose(mesh.vertices[mesh.faces], shape.triangles, atol=1e-6)
    places, faces = mesh.welded
    assert len(places) == len(shape.vertices)
    np.testing.assert_allclose(places[faces], shape.triangles, atol=3e-6)
    assert trimesh.Trimesh(places, faces, process=False).is_watertight
    assert hashlib.sha256(path.read_bytes()).digest() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("up", "front", "expected"),
    [("y", "z", [1, 2, 3]), ("z", "-y", [1, 3, -2]), ("z", "x", [2, 3, 1]), ("-y", "z", [-1, -2, 3])],
)
def test_axes_by_hand(up: str, front: str, expected: list[float]) -> None:
    rotation = axes_rotation(up, front)
    assert np.linalg.det(rotation) == 1
    assert (rotation @ [1, 2, 3]).tolist() == expected


@pytest.mark.parametrize(("up", "front"), [("y", "-y"), ("z", "z")])
def test_wrong_axes(up: str, front: str) -> None:
    with pytest.raises(ValueError, match="up"):
        axes_rotation(up, front)


def test_placement_fits_and_comes_back() -> None:
    rng = np.random.default_rng(0)
    for spread in ([1.0, 5.0, 2.0], [1.0, 1.0, 1.0]):
        points = rng.uniform(-1, 1, (500, 3)) * spread * 1e-3 + [3e4, -20, 7]
        placement = Placement.fit(points, "z", "-y", radius=2.0)
        placed = placement.to_scene(points)
        half = np.abs(placed).max(axis=0)
        assert np.linalg.norm(placed, axis=1).max() == pytest.approx(2.0)
        assert half[1] == pytest.approx(half.max() * spread[2] / max(spread), rel=0.1)  # the file's z is up
        size = np.ptp(points, axis=0).max()
        assert np.abs(placement.to_file(placed) - points).max() < 1e-6 * size


def test_conventions_differ_for_stl_alone() -> None:
    for one in (".glb", ".gltf", ".obj", ".ply"):
        for other in (".glb", ".obj", ".ply"):
            assert np.array_equal(between_formats(one, other), np.eye(3))
    assert (between_formats(".stl", ".glb") @ [0, 0, 1]).tolist() == [0, 1, 0]


def test_transfer_function_of_srgb() -> None:
    values = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(linear_from_srgb(srgb_from_linear(values)), values, atol=1e-6)
    np.testing.assert_allclose(srgb_from_linear(np.array([0, 0.2140, 1])), [0, 0.5, 1], atol=1e-4)


def test_many_faces_have_a_note() -> None:
    assert "up to about 8 minutes" in time_note(5_000_000)


class TestBadInput:
    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="is a folder"):
            read_mesh_file(tmp_path)

    def test_unknown_suffix(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"'.fbx' is not one of .glb"):
            read_mesh_file(tmp_path / "a.fbx")

    def test_absent(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no such file"):
            read_mesh_file(tmp_path / "a.glb")

    @pytest.mark.parametrize("suffix", [".glb", ".gltf", ".obj", ".ply", ".stl"])
    def test_encrypted(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"a{suffix}"
        path.write_bytes(np.random.default_rng(0).bytes(5000))
        with pytest.raises(ValueError, match=f"{path.name}: "):
            read_mesh_file(path)

    @pytest.mark.parametrize("suffix", [".glb", ".gltf", ".obj", ".ply", ".stl"])
    def test_empty_file(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"a{suffix}"
        path.touch()
        with pytest.raises(ValueError, match=f"{path.name}: "):
            read_mesh_file(path)

    @pytest.mark.parametrize("suffix", [".glb", ".ply", ".stl"])
    def test_cut_off(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"a{suffix}"
        trimesh.creation.icosphere().export(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ValueError, match=f"{path.name}: "):
            read_mesh_file(path)

    def test_cameras_only(self, tmp_path: Path) -> None:
        gltf = GltfBuilder()
        gltf.tree["cameras"] = [{"type": "perspective", "perspective": {"yfov": 1.0, "znear": 0.1, "aspectRatio": 1.0}}]
        gltf.node(camera=0, translation=[0.0, 0.0, 3.0])
        with pytest.raises(ValueError, match="no faces"):
            read_mesh_file(gltf.write(tmp_path / "camera.glb"))

    @pytest.mark.parametrize("suffix", [".ply", ".obj", ".glb"])
    def test_point_cloud(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"points{suffix}"
        trimesh.PointCloud(TRIANGLE).export(path)
        with pytest.raises(ValueError, match="point cloud"):
            read_mesh_file(path)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("suffix", [".glb", ".ply", ".stl", ".obj"])
    def test_vertices_that_are_not_finite(self, tmp_path: Path, suffix: str, value: float) -> None:
        shape = trimesh.creation.icosphere(subdivisions=1)
        path = tmp_path / f"a{suffix}"
        vertices = shape.vertices.copy()
        vertices[3, 1] = value
        if suffix == ".glb":
            gltf = GltfBuilder()
            gltf.node(gltf.mesh(gltf.primitive(vertices, shape.faces)))
            gltf.tree["accessors"][0].pop("min"), gltf.tree["accessors"][0].pop("max")
            gltf.write(path)
        elif suffix == ".obj":
            lines = [f"v {x} {y} {z}" for x, y, z in vertices] + [f"f {a} {b} {c}" for a, b, c in shape.faces + 1]
            path.write_text("\n".join(lines))
        else:
            trimesh.Trimesh(vertices, shape.faces, process=False).export(path)
        with pytest.raises(ValueError, match="vertices are not finite"):
            read_mesh_file(path)

    def test_no_size(self, tmp_path: Path) -> None:
        trimesh.Trimesh(np.ones((3, 3)), FACE, process=False).export(tmp_path / "a.ply")
        with pytest.raises(ValueError, match="no size"):
            read_mesh_file(tmp_path / "a.ply")

    @pytest.mark.parametrize("extension", ["KHR_draco_mesh_compression", "EXT_meshopt_compression", "ACME_secret"])
    def test_required_extension(self, tmp_path: Path, extension: str) -> None:
        gltf = GltfBuilder()
        gltf.node(gltf.mesh(gltf.primitive(TRIANGLE, FACE)))
        gltf.tree["extensionsUsed"] = gltf.tree["extensionsRequired"] = [extension]
        with pytest.raises(ValueError, match=f"{extension}.*export it"):
            read_mesh_file(gltf.write(tmp_path / "a.glb"))

    def test_quantized_coordinates(self, tmp_path: Path) -> None:
        gltf = GltfBuilder()
        primitive = gltf.primitive(TRIANGLE, FACE)
        primitive["attributes"]["TEXCOORD_0"] = gltf.accessor(np.array([[0, 0], [65535, 0], [0, 9]]), USHORT)
        gltf.node(gltf.mesh(primitive))
        with pytest.raises(ValueError, match="TEXCOORD_0 is not stored as floats"):
            read_mesh_file(gltf.write(tmp_path / "a.glb"))

    def test_missing_texture(self, tmp_path: Path) -> None:
        (tmp_path / "m.mtl").write_text("newmtl a\nmap_Kd wood.png\n")
        (tmp_path / "m.obj").write_text("mtllib m.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl a\nf 1 2 3\n")
        with pytest.raises(FileNotFoundError, match=r"m.obj: names 'wood.png', which is not there"):
            read_mesh_file(tmp_path / "m.obj")
        gltf = GltfBuilder()
        material = gltf.material("a", texture=gltf.texture(RED, uri="bark.png"))
        gltf.node(gltf.mesh(gltf.primitive(TRIANGLE, FACE, material=material)))
        with pytest.raises(FileNotFoundError, match=r"'bark\.png'"):
            read_mesh_file(gltf.write(tmp_path / "m.gltf"))

    def test_missing_materials_and_buffers(self, tmp_path: Path) -> None:
        (tmp_path / "m.obj").write_text("mtllib m.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
        with pytest.raises(FileNotFoundError, match=r"'m.mtl'"):
            read_mesh_file(tmp_path / "m.obj")
        gltf = GltfBuilder()
        gltf.node(gltf.mesh(gltf.primitive(TRIANGLE, FACE)))
        path = gltf.write(tmp_path / "m.gltf", buffer="m.bin")
        assert len(read_mesh_file(path).faces) == 1
        (tmp_path / "m.bin").unlink()
        with pytest.raises(FileNotFoundError, match=r"'m.bin'"):
            read_mesh_file(path)

    def test_obj_that_counts_backwards(self, tmp_path: Path) -> None:
        (tmp_path / "m.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf -3 -2 -1\n")
        with pytest.raises(ValueError, match="backwards"):
            read_mesh_file(tmp_path / "m.obj")
