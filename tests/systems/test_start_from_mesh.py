"""The stages nerf and geometry from a user's own mesh, and the stages after them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from configs.schema import ExportConfig, RunConfig, SurfaceConfig
from guidance.config import GuidanceConfig
from models.config import HashGridConfig, NeRFSceneConfig, RadianceFieldConfig, SDFFieldConfig, SourceMeshConfig
from runs.train import train
from systems.geometry import GeometryParticles
from systems.nerf import NeRFParticles
from systems.scenes import restore
from tests.systems.tiny_runs import part, tiny_config, with_output

SDS = GuidanceConfig(loss="sds", guidance_scale=20.0)
PLACE = np.array([40.0, -3.0, 7.0])
HALF = np.array([2.0, 6.0, 1.0])  # of the box's sides, halved by two


def red_and_blue_box(path: Path, suffix: str = ".ply") -> Path:
    """A box without its lid, one side turned inside out; red above its middle, blue below."""
    box = trimesh.creation.box(HALF).subdivide().subdivide()
    faces = box.faces[box.triangles_center[:, 1] < HALF[1] / 2 - 1e-6].copy()
    left = box.vertices[faces][:, :, 0].max(axis=1) < -HALF[0] / 2 + 1e-6
    faces[left] = faces[left][:, ::-1]
    colors = np.where(box.vertices[:, 1:2] > 0, [[220, 30, 30, 255]], [[30, 30, 220, 255]]).astype(np.uint8)
    trimesh.Trimesh(box.vertices + PLACE, faces, vertex_colors=colors, process=False).export(path)
    return path


def config_of(stage: str, prior_folder: Path, path: Path, **fields) -> RunConfig:
    grid = HashGridConfig(levels=4, log2_hashmap_size=12, base_resolution=8, finest_resolution=32)
    config = tiny_config(
        prior_folder,
        stage=stage,
        name=stage,
        iterations=1,
        guidance=SDS,
        scene=NeRFSceneConfig(RadianceFieldConfig(grid=grid, hidden=(16,))),
        surface=SurfaceConfig(SDFFieldConfig(cells=16), shading="lit"),
        export=ExportConfig(formats=("glb", "ply"), texture_size=32),
    )
    config = with_output(config, checkpoint_every=1, keep_checkpoints=5, mesh_resolution=48)
    return replace(config, source_mesh=SourceMeshConfig(path=str(path)), **fields)


@pytest.fixture(scope="module")
def geometry(prior_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path]:
    folder = tmp_path_factory.mktemp("geometry")
    config = config_of("geometry", prior_folder, red_and_blue_box(folder / "box.ply"), particles=2)
    train(config, folder / "run")
    return config, folder / "run"


def assert_is_the_box(path: Path, tolerance: float) -> None:
    """The model stands where the file's box stands."""
    mesh = trimesh.load_scene(path, process=False).to_mesh()
    expected = np.stack([PLACE - HALF / 2, PLACE + HALF / 2])
    assert np.abs(mesh.bounds - expected).max() < tolerance * HALF.max()


def test_geometry_starts_from_the_solid_of_a_damaged_mesh(geometry) -> None:
    config, folder = geometry
    scene = restore(GeometryParticles, config, folder / "checkpoints/000000.ckpt")
    assert torch.equal(scene.particles[0].sdf, scene.particles[1].sdf)
    surface = scene.surface(0)
    solid = trimesh.Trimesh(surface.vertices.numpy(), surface.faces.numpy(), process=False)
    assert solid.is_watertight
    true_volume = np.prod(HALF) * scene.origin.placement.scale**3
    assert solid.volume == pytest.approx(true_volume, rel=0.15)


def test_its_colors_are_the_files(geometry) -> None:
    config, folder = geometry
    surface = restore(GeometryParticles, config, folder / "checkpoints/000000.ckpt").surface(0)
    colors = surface.color(surface.vertices)
    above, below = (colors[where].mean(0) for where in (surface.vertices[:, 1] > 0.1, surface.vertices[:, 1] < -0.1))
    assert above[0] > 0.6 > 0.35 > above[2] and below[2] > 0.6 > 0.35 > below[0]


def test_its_models_return_to_the_files_place(geometry) -> None:
    _, folder = geometry
    for name in ("mesh-0.glb", "mesh-1.ply"):
        assert_is_the_box(folder / name, tolerance=0.05)


def test_the_texture_after_it_knows_the_place_too(geometry, prior_folder, tmp_path) -> None:
    earlier, folder = geometry
    config = replace(earlier, stage="texture", name="texture", source=str(folder / "checkpoints/last.ckpt"))
    train(config, tmp_path)
    places = [
        part(checkpoint, "scene.placement.")
        for checkpoint in (tmp_path / "checkpoints/last.ckpt", folder / "checkpoints/last.ckpt")
    ]
    assert all(torch.equal(places[0][name], places[1][name]) for name in ("rotation", "scale", "centre"))
    assert_is_the_box(tmp_path / "mesh-0.glb", tolerance=0.05)


def test_a_radiance_field_starts_from_the_mesh_and_the_next_stage_goes_on(prior_folder, tmp_path) -> None:
    config = config_of("nerf", prior_folder, red_and_blue_box(tmp_path / "box.ply"))
    train(config, tmp_path / "nerf")
    start = restore(NeRFParticles, config, tmp_path / "nerf/checkpoints/000000.ckpt")
    with torch.no_grad():
        inside = start.particles[0].field(0.15 * torch.tensor([[0.0, 1.0, 0], [0, -1.0, 0], [0, 0, 0]]))
        outside = start.particles[0].field.density(torch.tensor([[0.6, 0, 0], [-0.6, 0.3, 0], [0, 0, 0.6]]))
    assert inside.sigmas.min() > 20 > 2 > outside.max()
    views = start.render_views(0, start.orbit(4, elevation_deg=0.0), 24)
    front, back = views.rgb[0], views.rgb[2]
    for view in (front, back):  # red above, blue below
        assert view[6:10, 12, 0].mean() > view[6:10, 12, 2].mean() + 0.2
        assert view[14:18, 12, 2].mean() > view[14:18, 12, 0].mean() + 0.2
    after = replace(config, stage="geometry", name="geometry", source=str(tmp_path / "nerf/checkpoints/last.ckpt"))
    train(after, tmp_path / "geometry")
    assert_is_the_box(tmp_path / "geometry/mesh.glb", tolerance=0.15)


@pytest.mark.parametrize("stage", ["nerf", "geometry"])
def test_a_sheet_encloses_nothing(stage, prior_folder, tmp_path) -> None:
    sheet = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0.1], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    sheet.export(tmp_path / "sheet.glb")
    with pytest.raises(ValueError, match=r"sheet.glb: faces: only .* bounds a volume.*or go on with the stage texture"):
        train(config_of(stage, prior_folder, tmp_path / "sheet.glb"), tmp_path / "run")
