"""The representation of docs/architecture.md: what it shows, that it learns, and that no parameter is forgotten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.schema import RunConfig, VoxelsConfig
from models.config import RadianceFieldConfig
from models.voxels import VoxelField
from runs.train import train
from systems.optimizers import check_groups
from systems.voxels import VoxelParticles
from tests.systems.tiny_runs import load


def test_values_are_interpolated_at_their_vertices() -> None:
    """Axes are not mixed up: each vertex has a value of its own, and so has the middle of an edge along x."""
    field = VoxelField(RadianceFieldConfig(), 3)
    with torch.no_grad():
        field.values[0] = torch.arange(4 * 27.0).view(4, 3, 3, 3)
        z, y, x = 2, 0, 1
        corner, middle = torch.tensor([[x, y, z], [x + 0.5, y, z]]) / 2
        found = field.outputs(torch.stack([corner, middle]))
    torch.testing.assert_close(found[0], field.values[0, :, z, y, x])
    torch.testing.assert_close(found[1], field.values[0, :, z, y, x : x + 2].mean(dim=-1))


def test_all_that_is_trained_moves(config: RunConfig, tmp_path: Path) -> None:
    config = replace(config, stage="voxels", voxels=VoxelsConfig(resolution=8))
    config = replace(config, render=replace(config.render, random_background=0.0))
    before = VoxelParticles(config).state_dict()
    train(config, tmp_path)
    after = load(tmp_path / "checkpoints/last.ckpt")["state_dict"]
    moved = {name for name, tensor in before.items() if not torch.equal(after[f"scene.{name}"], tensor)}
    trained = {name for name, _ in VoxelParticles(config).named_parameters()}
    assert "particles.0.field.values" in trained and trained <= moved
    assert (tmp_path / "turntable.mp4").stat().st_size > 0


def test_a_parameter_in_no_group_is_refused(config: RunConfig) -> None:
    scene = VoxelParticles(replace(config, stage="voxels", voxels=VoxelsConfig(resolution=8)))
    check_groups(scene, scene.parameter_groups())
    scene.particles[0].extra = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(TypeError, match=r"extra: .* in no parameter group; .*VoxelParticles.parameter_groups"):
        check_groups(scene, scene.parameter_groups())
