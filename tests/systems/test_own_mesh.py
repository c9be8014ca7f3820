"""The stage texture on a user's own mesh: what comes back, what a checkpoint holds, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import assimp_py
import numpy as np
import pygltflib
import pytest
import torch
import trimesh
from PIL import Image

from configs.schema import EXPORT_FORMATS, ExportConfig, RunConfig
from models.config import SourceMeshConfig
from renderers.cameras import orbit_cameras
from renderers.config import CameraSampling
from renderers.textured_export import read_textured_glb
from runs.from_checkpoint import export
from runs.train import train
from systems.scenes import restore
from systems.texture import TextureParticles
from tests.systems.tiny_runs import assert_same_state, load, tiny_config, with_output

PLACE = np.array([40.0, -3.0, 7.0])
EXPORT = ExportConfig(formats=EXPORT_FORMATS, texture_size=64)


def two_parts(suffix: str, folder: Path) -> Path:
    """A box with a ball inside out on it and an open sheet across an edge; far from the origin, y up."""
    box = trimesh.creation.box([2.0, 6.0, 1.0])
    ball = trimesh.creation.icosphere(1, 0.8)
    ball.invert()
    ball.apply_translation([0.0, 3.5, 0.0])
    fin = trimesh.Trimesh([[1.0, 3.0, 0.5], [1.0, -3.0, 0.5], [2.0, 0.0, 0.5]], [[0, 1, 2]], process=False)
    joined = trimesh.util.concatenate([box, ball, fin])
    joined.apply_translation(PLACE)
    path = folder / f"mine{suffix}"
    joined.export(path)
    return path


def painted(prior_folder: Path, path: Path, **fields) -> RunConfig:
    config = tiny_config(prior_folder, stage="texture", name="texture", iterations=2, export=EXPORT)
    config = with_output(config, checkpoint_every=1, keep_checkpoints=5)
    return replace(config, source_mesh=SourceMeshConfig(path=str(path)), **fields)


@pytest.fixture(scope="module")
def run(prior_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path, Path]:
    """Configuration, folder and mesh of a finished run of two particles; the mesh is gone."""
    folder = tmp_path_factory.mktemp("own")
    path = two_parts(".glb", folder)
    original = path.read_bytes()
    config = painted(prior_folder, path, particles=2)
    train(config, folder / "run")
    assert path.read_bytes() == original
    path.rename(folder / "moved.glb")
    return config, folder / "run", folder / "moved.glb"


def triangles(path: Path) -> np.ndarray:
    return trimesh.load_scene(path, process=False).to_mesh().triangles


def test_what_goes_in_comes_out_with_a_texture(run) -> None:
    _, folder, original = run
    before = triangles(original)
    for particle in range(2):
        for suffix, tolerance in ((".glb", 0.0), (".obj", 1e-5)):
            after = triangles(folder / f"mesh-{particle}{suffix}")
            assert np.abs(after - before).max() <= tolerance * np.ptp(before.reshape(-1, 3), axis=0).max()
        assert np.array_equal(triangles(folder / f"mesh-{particle}.ply"), before)
        assert (folder / f"mesh-{particle}.html").stat().st_size > 1000


def test_three_loaders_find_it_at_its_place(run) -> None:
    """trimesh, assimp and the bare accessors of pygltflib."""
    _, folder, original = run
    before = triangles(original).reshape(-1, 3)
    bounds = np.stack([before.min(axis=0), before.max(axis=0)])
    tolerance = 1e-4 * np.ptp(before, axis=0).max()
    found = assimp_py.import_file(str(folder / "mesh-0.glb"), assimp_py.Process_Triangulate)
    vertices = np.concatenate([np.asarray(mesh.vertices).reshape(-1, 3) for mesh in found.meshes])
    assert np.abs(np.stack([vertices.min(axis=0), vertices.max(axis=0)]) - bounds).max() < tolerance
    gltf = pygltflib.GLTF2().load(str(folder / "mesh-0.glb"))
    (mesh,) = gltf.meshes
    accessor = gltf.accessors[mesh.primitives[0].attributes.POSITION]
    assert np.abs(np.array([accessor.min, accessor.max]) - bounds).max() < tolerance
    assert all(node.matrix is None or np.allclose(node.matrix, np.eye(4).ravel()) for node in gltf.nodes)


def test_particles_have_one_shape_and_colors_of_their_own(run) -> None:
    config, folder, _ = run
    scene = restore(TextureParticles, config, folder / "checkpoints/last.ckpt")
    assert scene.mesh(0) is scene.mesh(1)
    first, second = (read_textured_glb(folder / f"mesh-{index}.glb").texture for index in (0, 1))
    assert first.shape == second.shape and not torch.equal(first, second)


def test_the_scene_shows_it_upright_in_the_middle(run) -> None:
    config, folder, _ = run
    vertices = restore(TextureParticles, config, folder / "checkpoints/last.ckpt").mesh(0).vertices
    low, high = vertices.amin(0), vertices.amax(0)
    assert vertices.norm(dim=-1).max().item() == pytest.approx(0.92 * config.scene.field.radius, rel=1e-4)
    assert (low < 0).all() and (high > 0).all()
    assert (high - low).argmax() == 1


def test_a_checkpoint_is_enough(run, tmp_path) -> None:
    """The file has moved: export and resumption read none."""
    config, folder, _ = run
    export(config, tmp_path / "export", folder / "checkpoints/last.ckpt")
    for name in ("mesh-0.glb", "mesh-1.obj", "mesh-0.ply"):
        assert (tmp_path / "export" / name).read_bytes() == (folder / name).read_bytes()
    train(config, tmp_path / "resumed", folder / "checkpoints/000002.ckpt")
    assert_same_state(load(tmp_path / "resumed/checkpoints/last.ckpt"), load(folder / "checkpoints/last.ckpt"))


def test_fewer_faces_are_made_on_request(run, tmp_path) -> None:
    config, folder, original = run
    config = replace(config, export=ExportConfig(formats=("glb",), texture_size=64, faces=40))
    export(config, tmp_path, folder / "checkpoints/last.ckpt")
    before, after = triangles(original), triangles(tmp_path / "mesh-0.glb")
    assert len(after) < 60 < len(before)
    size = np.ptp(before.reshape(-1, 3), axis=0).max()
    assert np.abs(after.min((0, 1)) - before.min((0, 1))).max() < 0.1 * size


def test_without_iterations_the_files_colors_come_back(prior_folder, tmp_path) -> None:
    ball = trimesh.creation.icosphere(2)
    color = np.where(ball.vertices[:, 1:2] > 0, [[230, 30, 30, 255]], [[30, 30, 230, 255]]).astype(np.uint8)
    trimesh.Trimesh(ball.vertices * [1, 1, 3] * 0.01, ball.faces, vertex_colors=color).export(tmp_path / "ball.ply")
    config = painted(prior_folder, tmp_path / "ball.ply", iterations=0)
    config = replace(config, appearance=replace(config.appearance, fit_iterations=200))
    train(config, tmp_path / "run")
    assert load(tmp_path / "run/checkpoints/last.ckpt")["run"]["iteration"] == 0
    after = trimesh.load(tmp_path / "run/mesh.ply", process=False)
    assert np.allclose(after.vertices, trimesh.load(tmp_path / "ball.ply", process=False).vertices, atol=1e-7)
    height = ball.vertices[:, 1]
    top, bottom = (after.visual.vertex_colors[part, :3].mean(axis=0) for part in (height > 0.4, height < -0.4))
    assert top[0] > 180 > 80 > top[2] and bottom[2] > 180 > 80 > bottom[0]
    plain = replace(config, source_mesh=replace(config.source_mesh, colors=False))
    train(plain, tmp_path / "grey")
    grey = trimesh.load(tmp_path / "grey/mesh.ply", process=False).visual.vertex_colors[:, :3].astype(float)
    assert np.abs(grey - grey.mean()).max() < 60


@pytest.mark.parametrize(("distance", "fovy_deg"), [((2.76, 3.06), (40.0, 42.0)), ((1.0, 1.5), (40.0, 70.0))])
def test_the_mesh_fills_the_views(distance, fovy_deg, prior_folder, tmp_path) -> None:
    trimesh.creation.icosphere(2, 30.0).export(tmp_path / "ball.glb")
    config = painted(prior_folder, tmp_path / "ball.glb", cameras=CameraSampling(distance=distance, fovy_deg=fovy_deg))
    scene = TextureParticles(config)
    scene.begin(None)
    height = (scene.render_views(0, scene.orbit(1), 64).opacity[0, :, :, 0] > 0.5).any(dim=1).float().mean().item()
    assert height == pytest.approx(0.86, abs=0.03)


def test_the_validator_finds_no_fault(run, validator) -> None:
    report = validator(run[1] / "mesh-0.glb")
    assert report.errors == 0 and report.warnings == 0, report


@pytest.mark.parametrize("suffix", [".glb", ".stl"])
def test_a_browser_shows_what_the_scene_shows(suffix, prior_folder, tmp_path, browser) -> None:
    """Upright, from its front, in the middle: an L far from its origin; STL has z up and its front at -y."""
    foot, back = trimesh.creation.box([2.0, 0.5, 3.0]), trimesh.creation.box([0.5, 4.0, 0.5])
    back.apply_translation([0.75, 2.0, -1.0])
    shape = trimesh.util.concatenate([foot, back])
    if suffix == ".stl":
        shape.vertices = shape.vertices[:, [0, 2, 1]] * [1, -1, 1]
    shape.apply_translation(PLACE)
    shape.export(tmp_path / f"l{suffix}")
    config = painted(prior_folder, tmp_path / f"l{suffix}", iterations=0)
    train(config, tmp_path / "run")
    scene = restore(TextureParticles, config, tmp_path / "run/checkpoints/last.ckpt")
    cameras = orbit_cameras(*(torch.tensor([value]) for value in (30.0, 20.0, 3.0, 40.0)))
    ours = scene.render_views(0, cameras, 256).opacity[0, ..., 0] > 0.5
    browser.open(tmp_path / "run/mesh.html", "azimuth=30&elevation=20&distance=3&fovy=40&still")
    shown = torch.from_numpy(browser.screenshot().min(axis=-1) < 0.8 * 255)
    assert (shown & ours).sum() >= 0.97 * (shown | ours).sum()
    assert (shown.flip(1) & ours).sum() < 0.9 * (shown | ours).sum()


def test_axes_can_be_named(prior_folder, tmp_path) -> None:
    """A GLB whose z is up, against the convention: the scene shows it upright, and it comes back lying as it lay."""
    tall = trimesh.creation.box([1.0, 2.0, 6.0])
    tall.export(tmp_path / "tall.glb")
    config = painted(prior_folder, tmp_path / "tall.glb", iterations=0)
    config = replace(config, source_mesh=replace(config.source_mesh, up="z"))
    train(config, tmp_path / "run")
    vertices = restore(TextureParticles, config, tmp_path / "run/checkpoints/last.ckpt").mesh(0).vertices
    assert vertices.amax(0).argmax() == 1
    assert np.ptp(triangles(tmp_path / "run/mesh.glb").reshape(-1, 3), axis=0).tolist() == [1.0, 2.0, 6.0]


def test_usable_texture_coordinates_are_kept(prior_folder, tmp_path, capsys) -> None:
    plane = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    uv = np.array([[0.1, 0.1], [0.9, 0.1], [0.9, 0.8], [0.1, 0.8]])
    plane.visual = trimesh.visual.TextureVisuals(uv=uv, image=Image.new("RGB", (8, 8), (200, 40, 40)))
    plane.export(tmp_path / "plane.glb")
    config = painted(prior_folder, tmp_path / "plane.glb", iterations=0)
    train(config, tmp_path / "kept")
    assert "new texture coordinates" not in capsys.readouterr().out
    kept = trimesh.load_scene(tmp_path / "kept/mesh.glb", process=False).to_mesh()
    assert np.allclose(kept.visual.uv, uv, atol=1e-6)
    train(replace(config, appearance=replace(config.appearance, keep_uv=False)), tmp_path / "new")
    assert "new texture coordinates: appearance.keep_uv is off" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [("folder.glb", "is a folder"), ("absent.obj", "there is no such file"), ("points.ply", "a point cloud")],
)
def test_an_unusable_mesh_is_told_before_the_prior_is_loaded(name, message, tmp_path) -> None:
    (tmp_path / "folder.glb").mkdir()
    trimesh.PointCloud(np.random.default_rng(0).random((9, 3))).export(tmp_path / "points.ply")
    config = painted(Path("no such prior"), tmp_path / name)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(config, tmp_path / "run")
