from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPModel, CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel

from guidance.families.components import load_component
from guidance.model_files import ModelFiles
from guidance.weights import load_whole
from tests.tiny_image_text import save_tiny_clip

Weights = dict[str, Tensor]
COMPONENTS = [
    ("epsilon", "text_encoder", CLIPTextModel),
    ("epsilon", "unet", UNet2DConditionModel),
    ("epsilon", "vae", AutoencoderKL),
    ("sdxl", "text_encoder_2", CLIPTextModelWithProjection),
    ("sdxl", "unet", UNet2DConditionModel),
    ("sd3", "text_encoder_3", T5EncoderModel),
    ("sd3", "transformer", SD3Transformer2DModel),
    ("flux", "transformer", FluxTransformer2DModel),
]
TWO_LIBRARIES = COMPONENTS[:2]


def altered(original: Path, copy: Path, alter: Callable[[Weights], object]) -> Path:
    """A copy of a component's folder whose weights were changed."""
    shutil.copytree(original, copy)
    (file,) = copy.glob("*.safetensors")
    weights = load_file(file)
    alter(weights)
    save_file({key: value.contiguous() for key, value in weights.items()}, file, metadata={"format": "pt"})
    return copy


@pytest.mark.parametrize(("kind", "name", "component"), COMPONENTS)
def test_a_whole_component_loads(folders: dict[str, Path], kind: str, name: str, component: type) -> None:
    network = load_whole(component, folders[kind], "prior", subfolder=name)
    (file,) = (folders[kind] / name).glob("*.safetensors")
    held = {key.removeprefix("text_model."): value for key, value in load_file(file).items()}
    loaded = {key.removeprefix("text_model."): value for key, value in network.state_dict().items()}
    assert held.keys() <= loaded.keys()
    assert all(torch.equal(value, loaded[key]) for key, value in held.items())


@pytest.mark.parametrize(("kind", "name", "component"), COMPONENTS)
def test_a_missing_weight_is_an_error(
    folders: dict[str, Path], tmp_path: Path, kind: str, name: str, component: type
) -> None:
    removed = min(load_file(next((folders[kind] / name).glob("*.safetensors"))))
    source = altered(folders[kind] / name, tmp_path / name, lambda weights: weights.pop(removed))
    shown = re.escape(removed.removeprefix("text_model."))  # transformers writes names with or without it
    with pytest.raises(ValueError, match=rf"prior: .*{name}.*1 missing \(.*{shown}\).*fetch the model"):
        load_whole(component, source, "prior")


@pytest.mark.parametrize(("kind", "name", "component"), COMPONENTS)
def test_an_unknown_weight_is_an_error(
    folders: dict[str, Path], tmp_path: Path, kind: str, name: str, component: type
) -> None:
    source = altered(
        folders[kind] / name, tmp_path / name, lambda weights: weights.update({"head.extra": torch.ones(2)})
    )
    with pytest.raises(ValueError, match=r"1 unknown \(head.extra\)"):
        load_whole(component, source, "prior")
    load_whole(component, source, "prior", unused=["head."])


@pytest.mark.parametrize(("kind", "name", "component"), TWO_LIBRARIES)
def test_other_names_are_an_error(
    folders: dict[str, Path], tmp_path: Path, kind: str, name: str, component: type
) -> None:
    def rename(weights: Weights) -> None:
        for key in list(weights):
            weights[f"elsewhere.{key}"] = weights.pop(key)

    source = altered(folders[kind] / name, tmp_path / name, rename)
    with pytest.raises(ValueError, match=r"[0-9]+ missing \(.*, \.\.\.\), [0-9]+ unknown \(elsewhere"):
        load_whole(component, source, "prior")


@pytest.mark.parametrize(("kind", "name", "component"), COMPONENTS)
def test_a_weight_of_another_shape_is_an_error(
    folders: dict[str, Path], tmp_path: Path, kind: str, name: str, component: type
) -> None:
    def lengthen(weights: Weights) -> None:
        key = max(weights)
        weights[key] = torch.cat([weights[key], weights[key]])

    source = altered(folders[kind] / name, tmp_path / name, lengthen)
    with pytest.raises(ValueError, match=r"prior: the weights in .*(of another shape|expected shape).*fetch the model"):
        load_whole(component, source, "prior")


@pytest.mark.parametrize(("kind", "name", "component"), [COMPONENTS[0], COMPONENTS[3]])
def test_position_ids_of_old_checkpoints_are_no_weights(
    folders: dict[str, Path], tmp_path: Path, kind: str, name: str, component: type
) -> None:
    ids = {"text_model.embeddings.position_ids": torch.arange(16)[None]}
    source = altered(folders[kind] / name, tmp_path / name, lambda weights: weights.update(ids))
    load_whole(component, source, "prior")


@pytest.mark.parametrize("names", [["shared"], ["encoder.embed_tokens"], ["shared", "encoder.embed_tokens"]])
def test_a_tied_weight_may_have_either_name_or_both(folders: dict[str, Path], tmp_path: Path, names: list[str]) -> None:
    def tie(weights: Weights) -> None:
        table = weights.pop("shared.weight")
        weights.update({f"{name}.weight": table.clone() for name in names})

    original = folders["sd3"] / "text_encoder_3"
    network = load_whole(T5EncoderModel, altered(original, tmp_path / "t5", tie), "prior")
    table = load_whole(T5EncoderModel, original, "prior").shared.weight
    assert torch.equal(network.shared.weight, table) and torch.equal(network.encoder.embed_tokens.weight, table)


def test_old_names_of_an_autoencoders_attention_are_converted(folders: dict[str, Path], tmp_path: Path) -> None:
    old = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}

    def rename(weights: Weights) -> None:
        for key in [key for key in weights if "attentions" in key]:
            value, name = weights.pop(key), key
            for new, before in old.items():
                name = name.replace(new, before)
            weights[name] = value
        assert any("query." in key for key in weights)

    original = folders["epsilon"] / "vae"
    converted = load_whole(AutoencoderKL, altered(original, tmp_path / "vae", rename), "prior").state_dict()
    for name, value in load_whole(AutoencoderKL, original, "prior").state_dict().items():
        assert torch.equal(converted[name], value)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


def test_an_old_clip_holds_position_ids_of_both_halves(clip_folder: Path, tmp_path: Path) -> None:
    ids = {f"{half}_model.embeddings.position_ids": torch.arange(4)[None] for half in ("text", "vision")}
    source = altered(clip_folder, tmp_path / "old", lambda weights: weights.update(ids))
    load_whole(CLIPModel, source, "guidance.clip_model")


def test_half_a_clip_is_an_error(clip_folder: Path, tmp_path: Path) -> None:
    def halve(weights: Weights) -> None:
        for key in [key for key in weights if key.startswith("vision_model.")]:
            del weights[key]

    with pytest.raises(ValueError, match=r"guidance.clip_model: .* missing \(vision_model"):
        load_whole(CLIPModel, altered(clip_folder, tmp_path / "half", halve), "guidance.clip_model")


def test_a_file_that_was_cut_off_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    for kind, name, component in TWO_LIBRARIES:
        folder = tmp_path / name
        shutil.copytree(folders[kind] / name, folder)
        (file,) = folder.glob("*.safetensors")
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(ValueError, match=rf"prior: the weights of '{name}' .* are broken"):
            load_component(component, ModelFiles(tmp_path), name)


def test_the_libraries_log_as_before_afterwards(folders: dict[str, Path], tmp_path: Path) -> None:
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    before = [logger.level for logger in loggers]
    with pytest.raises(OSError):
        load_whole(CLIPTextModel, tmp_path, "prior", subfolder="none")
    assert [logger.level for logger in loggers] == before
