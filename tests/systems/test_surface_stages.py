"""Stages 2 and 3 on two particles: what moves, what stays, what is refused, and what leaves the program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import assimp_py
import numpy as np
import pygltflib
import pytest
import torch
import trimesh
from PIL import Image

from configs.schema import EXPORT_FORMATS, RunConfig
from guidance.config import GuidanceConfig
from guidance.loading import load_prior
from runs import from_checkpoint
from runs.from_checkpoint import export
from runs.frozen_model import build_prompts
from runs.train import train
from systems.collapse import CollapseError
from systems.geometry import GeometryParticles
from systems.nerf import NeRFParticles
from systems.scenes import restore
from systems.stages import system_class
from systems.surface_points import random_points
from systems.texture import TextureParticles
from tests.systems.tiny_runs import assert_same_state, load, part, tiny_config, with_output

SDS = GuidanceConfig(loss="sds", guidance_scale=20.0)


@pytest.fixture(scope="module")
def runs(prior_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[RunConfig, Path]]:
    """Configuration and last checkpoint of each stage, one going on from the other, two particles."""
    base = with_output(tiny_config(prior_folder, particles=2, iterations=2), checkpoint_every=2, keep_checkpoints=5)
    done: dict[str, tuple[RunConfig, Path]] = {}
    for stage, guidance in (("nerf", base.guidance), ("geometry", SDS), ("texture", base.guidance)):
        source = str([*done.values()][-1][1]) if done else None
        config = replace(base, stage=stage, name=stage, source=source, guidance=guidance)
        if stage == "texture":
            config = replace(config, appearance=replace(config.appearance, fit_iterations=20))
        folder = tmp_path_factory.mktemp(stage)
        train(config, folder)
        done[stage] = (config, folder / "checkpoints/last.ckpt")
    return done


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> dict[str, bool]:
    assert first.keys() == second.keys() and first
    return {name: torch.equal(tensor, second[name]) for name, tensor in first.items()}


def edited(checkpoint: Path, folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> str:
    """A copy of a checkpoint with another state."""
    content = torch.load(checkpoint, weights_only=True)
    edit(content["state_dict"])
    torch.save(content, folder / "edited.ckpt")
    return str(folder / "edited.ckpt")


def test_geometry_moves_every_surface_and_keeps_the_radiance_fields(runs) -> None:
    checkpoint = runs["geometry"][1]
    start = checkpoint.with_name("000000.ckpt")
    moved = equal(part(start, "scene.particles."), part(checkpoint, "scene.particles."))
    assert moved == {f"{index}.{name}": False for index in range(2) for name in ("sdf", "offsets")}
    originals = part(checkpoint, "scene.originals.")
    assert all(equal(originals, part(runs["nerf"][1], "scene.particles.")).values())


def test_geometry_starts_from_the_level_set_of_each_particle(runs) -> None:
    config, checkpoint = runs["geometry"]
    start = restore(GeometryParticles, config, checkpoint.with_name("000000.ckpt"))
    source = restore(NeRFParticles, *runs["nerf"])
    picture = Image.open(checkpoint.parent.parent / "level.png")
    assert picture.size[0] == 4 * 128 and picture.size[1] > 2 * 3 * 128
    assert not torch.equal(start.particles[0].sdf, start.particles[1].sdf)
    for index in range(2):
        sizes = [scenes.surface(index).vertices.norm(dim=-1).mean().item() for scenes in (start, source)]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


@pytest.mark.parametrize("stage", ["geometry", "texture"])
def test_surfaces_are_watertight_and_face_outward(stage, runs) -> None:
    config, checkpoint = runs[stage]
    scene = restore(system_class(config).scenes_class, config, checkpoint)
    for index in range(2):
        surface = scene.surface(index)
        solid = trimesh.Trimesh(surface.vertices.numpy(), surface.faces.numpy(), process=False)
        assert solid.is_watertight and solid.is_winding_consistent and solid.volume > 0


def test_texture_moves_the_colors_and_nothing_else(runs) -> None:
    checkpoint = runs["texture"][1]
    start = checkpoint.with_name("000000.ckpt")
    surfaces = part(checkpoint, "scene.surfaces.")
    assert all(equal(surfaces, part(runs["geometry"][1], "scene.particles.")).values())
    assert not any(equal(part(start, "scene.particles."), part(checkpoint, "scene.particles.")).values())
    optimizer = load(checkpoint)["optimizer_states"][0]["param_groups"]
    assert {group["name"] for group in optimizer} == {"grid", "mlp"}


def test_a_fit_teaches_the_field_the_earlier_colors(runs) -> None:
    config, checkpoint = runs["texture"]
    source = restore(GeometryParticles, *runs["geometry"])

    def error(scenes: TextureParticles) -> float:
        surface = source.surface(0)
        areas = torch.ones(len(surface.faces))
        points = random_points(surface, areas, torch.Generator().manual_seed(0))
        return (scenes.particles[0](points) - surface.color(points)).abs().mean().item()

    fitted = restore(TextureParticles, config, checkpoint.with_name("000000.ckpt"))
    assert error(fitted) < 0.5 * error(TextureParticles(config))


def test_random_points_lie_on_the_surface_evenly(runs) -> None:
    surface = restore(GeometryParticles, *runs["geometry"]).surface(0)
    square = replace(
        surface,
        vertices=torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]),
        faces=torch.tensor([[0, 1, 2], [0, 2, 3]]),
    )
    points = random_points(square, torch.tensor([0.5, 0.5]), torch.Generator().manual_seed(0))
    assert points[:, 2].eq(0).all() and points.min() >= 0 and points.max() <= 1
    torch.testing.assert_close(points[:, :2].mean(0), torch.full((2,), 0.5), atol=0.02, rtol=0)
    torch.testing.assert_close(points[:, :2].var(0), torch.full((2,), 1 / 12), atol=0.005, rtol=0)


@pytest.mark.parametrize("stage", ["geometry", "texture"])
def test_a_resumed_run_is_the_uninterrupted_one(stage, runs, tmp_path) -> None:
    config, checkpoint = runs[stage]
    train(replace(config, source="gone"), tmp_path, checkpoint.with_name("000002.ckpt"))
    assert_same_state(*(load(path) for path in (checkpoint, tmp_path / "checkpoints/last.ckpt")))


@pytest.mark.parametrize("stage", ["nerf", "geometry", "texture"])
def test_the_validator_finds_nothing_in_any_glb(stage, runs, tmp_path, validator) -> None:
    for path in glbs(*runs[stage], tmp_path):
        report = validator(path)
        assert (report.errors, report.warnings) == (0, 0), report.messages


def glbs(config: RunConfig, checkpoint: Path, folder: Path) -> list[Path]:
    return export(replace(config, export=replace(config.export, formats=("glb",))), folder, checkpoint)


@pytest.mark.parametrize("stage", ["nerf", "geometry", "texture"])
def test_every_glb_opens_in_three_loaders(stage, runs, tmp_path) -> None:
    for path in glbs(*runs[stage], tmp_path):
        faces = len(trimesh.load(path, force="mesh").faces)
        gltf = pygltflib.GLTF2().load(str(path))
        assert gltf.accessors[gltf.meshes[0].primitives[0].indices].count == 3 * faces
        (mesh,) = assimp_py.import_file(str(path), assimp_py.Process_Triangulate).meshes
        assert len(mesh.indices) == 3 * faces > 60


@pytest.mark.parametrize("stage", ["nerf", "geometry", "texture"])
def test_every_format_opens_from_every_stage(stage, runs, tmp_path) -> None:
    """From the checkpoint alone: its source is gone."""
    config, checkpoint = runs[stage]
    source = None if config.source is None else "gone"
    settings = replace(config.export, formats=EXPORT_FORMATS, faces=150, meters_per_unit=0.5)
    config = replace(config, source=source, export=settings)
    paths = export(config, tmp_path, checkpoint)
    assert [path.name for path in paths] == [f"mesh-{i}.{ending}" for i in range(2) for ending in EXPORT_FORMATS]
    for path in paths:
        if path.suffix == ".html":
            assert "a red mug" in path.read_text() and "{{" not in path.read_text()
            continue
        shape = trimesh.load(path, force="mesh")
        assert 20 < len(shape.faces) < 200 and 0.1 < abs(shape.vertices).max() <= 0.5
        if path.suffix == ".glb":
            assert shape.visual.material.baseColorTexture.size == (32, 32)


def test_an_stl_stands_upright_for_a_printer_and_has_the_shape_of_the_ply(runs, tmp_path) -> None:
    config, checkpoint = runs["geometry"]
    config = replace(config, source="gone", export=replace(config.export, formats=("stl", "ply")))
    assert len(export(config, tmp_path, checkpoint)) == 4
    stl, ply = (trimesh.load(tmp_path / f"mesh-0.{ending}", force="mesh") for ending in ("stl", "ply"))
    x, y, z = ply.vertices[ply.faces].reshape(-1, 3).T
    np.testing.assert_allclose(stl.vertices[stl.faces].reshape(-1, 3), np.stack([x, -z, y], axis=1), atol=1e-6)
    assert stl.volume == pytest.approx(ply.volume, rel=1e-4) and stl.volume > 0


def test_films_and_figures_of_a_checkpoint(runs, tmp_path) -> None:
    for stage in ("geometry", "texture"):
        config, checkpoint = runs[stage]
        figures = from_checkpoint.test(replace(config, source="gone"), tmp_path / stage, checkpoint)
        assert 0 < figures["particles"][1]["opacity"] < 1
        assert figures["files"] == ["turntable-0.mp4", "turntable-1.mp4"]


def test_lit_colors_move_the_surface_too(runs, prior_folder) -> None:
    config = runs["geometry"][0]
    config = replace(config, surface=replace(config.surface, shading="lit"))
    prior = load_prior(prior_folder)
    system = system_class(config)(config, prior, build_prompts(config, prior))
    system.scene.begin(None)
    views = system.render_training_views(0, 0, system.draw_cameras(0))
    rgb = views.rgb[views.opacity[..., 0] > 0.99]
    assert rgb.std(0).max() < 0.5  # colours of the radiance field, not normals
    rgb.sum().backward()  # of the inside alone: the outline moves the surface whatever the colours are
    assert system.scene.particles[0].sdf.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in system.scene.originals.parameters())


def test_a_strong_smoothness_smooths(runs, tmp_path) -> None:
    """The regularisers reach the surface: with nothing else to win, creases become fewer."""
    from models.mesh_geometry import mesh_edges, normal_consistency

    config = runs["geometry"][0]
    weights = replace(config.regularizers, normal_consistency=[[0, 1e9]], laplacian=[[0, 0.0]])
    config = replace(config, particles=1, iterations=8, regularizers=weights)
    config = replace(config, source=str(single_source(runs["nerf"], tmp_path)))
    train(config, tmp_path / "run")
    bends = []
    for name in ("000000", "last"):
        surface = restore(GeometryParticles, config, tmp_path / f"run/checkpoints/{name}.ckpt").surface(0)
        bends.append(normal_consistency(surface.vertices, surface.faces, mesh_edges(surface.faces)).item())
    assert bends[1] < bends[0]


def single_source(nerf: tuple[RunConfig, Path], folder: Path) -> Path:
    """A checkpoint of one particle, cut out of one of two."""
    content = torch.load(nerf[1], weights_only=True)
    content["run"]["config"]["particles"] = 1
    second = ("scene.particles.1.", "scene.occupancies.1.")
    state = {name: tensor for name, tensor in content["state_dict"].items() if not name.startswith(second)}
    torch.save({**content, "state_dict": state}, folder / "single.ckpt")
    return folder / "single.ckpt"


def start(config: RunConfig, folder: Path) -> None:
    """A run that must not come to its first iteration."""
    train(config, folder)
    pytest.fail("training began")


def test_a_source_is_needed_and_must_be_of_the_stage_before(runs, tmp_path, monkeypatch) -> None:
    """And it is told before the prior is loaded."""
    monkeypatch.setattr("runs.train.build_prior", lambda *_: pytest.fail("the prior was loaded"))
    geometry, texture = runs["geometry"][0], runs["texture"][0]
    with pytest.raises(ValueError, match=r"the stage 'geometry' goes on from a run of the stage 'nerf'.*from=RUN"):
        start(replace(geometry, source=None), tmp_path)
    with pytest.raises(ValueError, match=r"is of the stage 'nerf', but the stage 'texture' goes on from .*'geometry'"):
        start(replace(texture, source=str(runs["nerf"][1])), tmp_path)
    with pytest.raises(ValueError, match=r"is of the stage 'geometry', but the stage 'geometry' goes on from"):
        start(replace(geometry, source=str(runs["geometry"][1])), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"checkpoint: 'gone' does not exist"):
        start(replace(geometry, source="gone"), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_another_world_than_the_sources_is_refused(runs, tmp_path) -> None:
    config = runs["geometry"][0]
    wide = replace(config, scene=replace(config.scene, field=replace(config.scene.field, radius=2.0)))
    with pytest.raises(ValueError, match=r"scene.field.radius: 2.0 here, 1.0 in the run"):
        start(wide, tmp_path)
    with pytest.raises(ValueError, match=r"particles: 3 here, 2 in the run"):
        start(replace(config, particles=3), tmp_path)


def test_an_empty_field_is_told_before_training(runs, tmp_path) -> None:
    def empty(state: dict[str, torch.Tensor]) -> None:
        field = "scene.particles.1.field."
        state[field + "grid.table"].fill_(1.0)
        state[field + "mlp.0.weight"].fill_(1.0)
        state[field + "mlp.2.weight"].fill_(-10.0)

    source = edited(runs["nerf"][1], tmp_path, empty)
    with pytest.raises(ValueError, match=r"particle 1 of .*edited.ckpt: level: .* the scene is empty"):
        start(replace(runs["geometry"][0], source=source), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_fog_is_told_with_the_levels_that_would_work(runs, tmp_path) -> None:
    """No ray gets opaque, but there is a shape in the density."""

    def thin(state: dict[str, torch.Tensor]) -> None:
        field = "scene.particles.0.field."
        state[field + "grid.table"].fill_(1.0)
        state[field + "mlp.0.weight"].fill_(1.0)
        # The initial bias, 10 at the origin, less 9.5: from 6 channels of 1 to 8, to the density.
        state[field + "mlp.2.weight"][0] = -9.5 / 48

    source = edited(runs["nerf"][1], tmp_path, thin)
    with pytest.raises(ValueError, match=r"particle 0 .* the scene is empty: .*levels that would work: \d"):
        start(replace(runs["geometry"][0], source=source), tmp_path / "run")


def test_a_level_without_a_surface_names_those_that_have_one(runs, tmp_path) -> None:
    config = runs["geometry"][0]
    config = replace(config, surface=replace(config.surface, level=1e6))
    with pytest.raises(ValueError, match=r"level set at 1e\+06 is empty.*levels that would work: \d"):
        start(config, tmp_path)


def test_a_fragmented_level_set_is_refused(runs, tmp_path) -> None:
    def noise(state: dict[str, torch.Tensor]) -> None:
        generator = torch.Generator().manual_seed(0)
        for index in range(2):
            table = state[f"scene.particles.{index}.field.grid.table"]
            table.copy_(60 * torch.randn(table.shape, generator=generator))

    config = runs["geometry"][0]
    field = replace(config.surface.field, cells=16)
    config = replace(config, surface=replace(config.surface, field=field, level=60.0))
    with pytest.raises(ValueError, match=r"is fragmented: it falls into \d+ parts"):
        start(replace(config, source=edited(runs["nerf"][1], tmp_path, noise)), tmp_path / "run")


def test_a_vanished_surface_is_a_collapse(runs, prior_folder) -> None:
    config = runs["geometry"][0]
    prior = load_prior(prior_folder)
    system = system_class(config)(config, prior, build_prompts(config, prior))
    with torch.no_grad():
        system.scene.particles[0].sdf.fill_(1.0)
    with pytest.raises(CollapseError, match=r"particle 0 has no surface .*lower optimizer.lr_geometry"):
        system.render_training_views(0, 0, system.draw_cameras(0))


def test_the_surface_kept_for_rendering_follows_its_state(runs) -> None:
    config, checkpoint = runs["texture"]
    scene = TextureParticles(config)
    ball = scene.mesh(0)
    assert scene.mesh(0) is ball
    scene.load_state_dict(restore(TextureParticles, config, checkpoint).state_dict())
    assert not torch.equal(scene.mesh(0).vertices, ball.vertices)
