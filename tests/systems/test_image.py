"""The playground: pictures in place of scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from configs.schema import RunConfig
from models.config import ImageConfig
from models.image import FourierImage
from runs.from_checkpoint import export
from runs.train import train
from systems.stages import SYSTEMS, system_class


@pytest.fixture
def pictures(config: RunConfig) -> RunConfig:
    output = replace(config.output, preview_every=2)
    return replace(config, stage="image", particles=2, iterations=2, output=output)


def test_a_run_moves_every_picture_and_leaves_a_sheet_and_a_strip(pictures, tmp_path: Path) -> None:
    before = SYSTEMS["image"].scenes_class(pictures)
    train(pictures, tmp_path)
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    moved = [not torch.equal(state[f"scene.{name}"], p) for name, p in before.named_parameters()]
    assert moved == [True, True]
    size = pictures.render.size
    assert Image.open(tmp_path / "pictures.png").size == (2 * size, size)
    assert Image.open(tmp_path / "progress.png").size == (2 * size, 2 * size)  # after 2 and 4 iterations
    assert not list(tmp_path.glob("*.glb"))


@pytest.mark.parametrize("size", [8, 64])
def test_spread_is_the_deviation_of_logits_and_shapes_outweigh_noise(size: int) -> None:
    image = FourierImage(ImageConfig(spread=0.5), size, torch.Generator().manual_seed(0))
    logits = torch.logit(image().detach()).movedim(-1, 0)
    assert logits.std().item() == pytest.approx(0.5, rel=0.4)
    power = torch.fft.rfft2(logits, norm="ortho").abs().square().mean(0)
    assert power[1, 0] > 10 * power[size // 2, 0]
    assert FourierImage(ImageConfig(spread=0.0), size, torch.Generator())().eq(0.5).all()


def test_every_picture_has_its_spectrum() -> None:
    image = FourierImage(ImageConfig(), 8, torch.Generator().manual_seed(0))
    wanted = torch.rand(8, 8, 3, generator=torch.Generator().manual_seed(1)) * 0.9 + 0.05
    spectrum = torch.fft.rfft2(torch.logit(wanted).permute(2, 0, 1), norm="ortho") / image.falloff
    with torch.no_grad():
        image.spectrum.copy_(torch.view_as_real(spectrum))
    torch.testing.assert_close(image(), wanted)


def test_a_picture_has_no_mesh(pictures, tmp_path: Path) -> None:
    train(pictures, tmp_path)
    with pytest.raises(ValueError, match="a picture has no mesh"):
        export(pictures, tmp_path / "export", tmp_path / "checkpoints" / "last.ckpt")


def test_every_stage_of_the_schema_has_its_system() -> None:
    from configs.schema import STAGES

    assert set(SYSTEMS) == set(STAGES)
    assert system_class(RunConfig(stage="image")) is SYSTEMS["image"]
