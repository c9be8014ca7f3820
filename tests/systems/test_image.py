"""The playground: pictures in place of scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from configs.schema import RunConfig
from models.image import ImageConfig, PixelImage
from systems.run import export, train
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


def test_gradient_reaches_every_pixel_and_colors_stay_in_range() -> None:
    image = PixelImage(ImageConfig(spread=20.0), 8, torch.Generator().manual_seed(0))
    rgb = image()
    rgb.sum().backward()
    assert rgb.min() >= 0 and rgb.max() <= 1
    assert PixelImage(ImageConfig(spread=0.0), 8, torch.Generator()).forward().eq(0.5).all()
    assert image.logits.grad.isfinite().all()


def test_a_picture_has_no_mesh(pictures, tmp_path: Path) -> None:
    train(pictures, tmp_path)
    with pytest.raises(ValueError, match="a picture has no mesh"):
        export(pictures, tmp_path / "export", tmp_path / "checkpoints" / "last.ckpt")


def test_every_stage_of_the_schema_has_its_system() -> None:
    from configs.schema import STAGES

    assert set(SYSTEMS) == set(STAGES)
    assert system_class(RunConfig(stage="image")) is SYSTEMS["image"]
