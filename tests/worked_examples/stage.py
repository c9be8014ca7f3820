"""The stage of docs/architecture.md: it begins where its source ended, goes on, and has settings of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.errors import ConfigError
from configs.load import load_config
from configs.schema import RunConfig
from configs.sources import CONFIG_FOLDER
from runs.train import train
from systems.polish import PolishedParticles
from tests.systems.tiny_runs import load


def test_it_goes_on_from_a_radiance_field(config: RunConfig, tmp_path: Path) -> None:
    train(config, tmp_path / "nerf")
    checkpoint = tmp_path / "nerf/checkpoints/last.ckpt"
    polish = replace(config, stage="polish", source=str(checkpoint))
    start = PolishedParticles(polish)
    start.begin(None)
    source = load(checkpoint)["state_dict"]
    begun = {name: tensor for name, tensor in start.state_dict().items() if name.startswith("particles.")}
    assert begun and all(torch.equal(tensor, source[f"scene.{name}"]) for name, tensor in begun.items())
    train(polish, tmp_path / "polish")
    done = load(tmp_path / "polish/checkpoints/last.ckpt")["state_dict"]
    assert not torch.equal(done["scene.particles.0.field.grid.table"], begun["particles.0.field.grid.table"])
    with pytest.raises(ConfigError, match="goes on from a run of the stage 'nerf'"):
        train(replace(polish, source=str(tmp_path / "polish/checkpoints/last.ckpt")), tmp_path / "again")


@pytest.mark.parametrize("prior", ["mini", "sd21"])
def test_its_noise_is_low(prior: str) -> None:
    config = load_config(CONFIG_FOLDER / "vsd-polish.yaml", {"prior": prior}).config
    assert config.stage == "polish" and config.noise.t_max == [[0, 0.3]]
