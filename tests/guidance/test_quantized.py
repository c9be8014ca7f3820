"""Quantised weights. torchao and gguf are optional: tests that need them are left out; .ci/run installs them."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel, TorchAoConfig, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import T5EncoderModel
from transformers import TorchAoConfig as TextTorchAoConfig

from guidance.config import EstimatorConfig
from guidance.estimator import LoraEstimator
from guidance.families import single_file
from guidance.loading import load_prior
from guidance.model_files import Lora, ModelFiles
from guidance.prior import DiffusionPrior
from tests.original_names import mmdit

QUANTIZED = 0.05  # of the plain prediction: how far that of tiny networks of 8 bits may be from it


def need(package: str) -> Any:
    return pytest.importorskip(package, reason=f"{package} is not installed")


def assert_nearly_the_same(found: DiffusionPrior, plain: DiffusionPrior) -> None:
    """Predictions differ, but little; an estimator begins there and learns."""
    text, t = found.encode_text(["a red mug"]), torch.tensor([500])
    x_t = torch.randn(1, *found.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        prediction = found.predict(x_t, t, text).output
        expected = plain.predict(x_t, t, plain.encode_text(["a red mug"])).output
    assert 0 < (prediction - expected).norm() < QUANTIZED * expected.norm()
    estimator = LoraEstimator(found, EstimatorConfig(), torch.Generator().manual_seed(0))
    output = estimator.predict(found, x_t, t, text, torch.eye(4)[None]).output
    torch.testing.assert_close(output, prediction)
    output.square().sum().backward()
    assert any(each.grad is not None and each.grad.abs().max() > 0 for each in estimator.parameters())


@pytest.fixture
def torchao_folder(folders, tmp_path):
    """Makes a folder whose network, and T5 where it has one, were saved in 8 bits."""
    ao = need("torchao.quantization")

    def make(family: str) -> Path:
        folder = Path(shutil.copytree(folders[family], tmp_path / family))
        name, component = (
            ("unet", UNet2DConditionModel) if family == "epsilon" else ("transformer", FluxTransformer2DModel)
        )
        shutil.rmtree(folder / name)
        quantized = TorchAoConfig(ao.Int8WeightOnlyConfig())
        component.from_pretrained(folders[family], subfolder=name, quantization_config=quantized).save_pretrained(
            folder / name
        )
        if family == "flux":
            shutil.rmtree(folder / "text_encoder_2")
            texts = TextTorchAoConfig(ao.Int8WeightOnlyConfig())
            t5 = T5EncoderModel.from_pretrained(folders[family], subfolder="text_encoder_2", quantization_config=texts)
            t5.save_pretrained(folder / "text_encoder_2")
        return folder

    return make


@pytest.mark.parametrize("family", ["epsilon", "flux"])
def test_weights_of_torchao(torchao_folder, loaded, family) -> None:
    assert_nearly_the_same(load_prior(torchao_folder(family)), loaded[family])


def test_a_lora_is_not_added_to_quantised_weights(torchao_folder, tmp_path) -> None:
    folder, lora = torchao_folder("epsilon"), tmp_path / "lora"
    network = load_prior(folder).network
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    width = network.get_submodule(layer).in_features
    weights = {
        f"unet.{layer}.lora_A.weight": torch.zeros(2, width),
        f"unet.{layer}.lora_B.weight": torch.zeros(width, 2),
    }
    torch.save(weights, lora.with_suffix(".bin"))
    with pytest.raises(ValueError, match="cannot be added to the quantised weights"):
        load_prior(ModelFiles(folder, loras=(Lora(str(lora.with_suffix(".bin"))),)))


@pytest.mark.parametrize("family", ["sd3", "flux"])
@pytest.mark.filterwarnings("ignore:prior. .* has no .*; that of")
def test_a_gguf_file(folders, loaded, family, tmp_path) -> None:
    """SD3's in its published names; FLUX's in diffusers', since the published layout can't be tiny."""
    gguf = need("gguf")
    (stored,) = (folders[family] / "transformer").glob("*.safetensors")
    weights = load_file(stored) if family == "flux" else mmdit(load_file(stored))
    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(file, "flux")
    for name, value in weights.items():
        kind = gguf.GGMLQuantizationType.Q8_0 if value.ndim == 2 and value.shape[-1] % 32 == 0 else None
        data = value.float().numpy() if kind is None else gguf.quantize(value.float().numpy(), kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert_nearly_the_same(load_prior(ModelFiles(file, config=folders[family])), loaded[family])


def test_the_package_that_is_missing_is_named(folders, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    folder = Path(shutil.copytree(folders["epsilon"], tmp_path / "quantized"))
    config = folder / "unet" / "config.json"
    for method, package in {"bitsandbytes": "bitsandbytes", "torchao": "torchao"}.items():
        stated = json.loads(config.read_text()) | {"quantization_config": {"quant_method": method}}
        config.write_text(json.dumps(stated))
        with pytest.raises(ValueError, match=rf"'unet' .* are quantised, and the package '{package}'.*pip install"):
            load_prior(folder)
    config.write_text(json.dumps(stated | {"quantization_config": {"quant_method": "other"}}))
    with pytest.raises(ValueError, match=r"are quantised by 'other'; read are bitsandbytes, torchao, gguf"):
        load_prior(folder)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=r"is a GGUF file, and the package 'gguf'.*pip install gguf"):
        load_prior(ModelFiles(tmp_path / "model.gguf", config=folders["flux"]))
    assert single_file.ENDINGS[-1] == ".gguf"


def test_what_a_quantiser_says_it_lacks_is_an_error(folders, tmp_path, monkeypatch) -> None:
    """bitsandbytes without a GPU, say."""

    def no_gpu(*_args: Any, **_settings: Any) -> None:
        raise RuntimeError("No GPU found. A GPU is needed for quantization.")

    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", no_gpu)
    monkeypatch.setattr("guidance.families.components.require_package", lambda package, why: None)
    folder = Path(shutil.copytree(folders["epsilon"], tmp_path / "quantized"))
    config = folder / "unet" / "config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"quantization_config": {"quant_method": "bitsandbytes"}})
    )
    with pytest.raises(ValueError, match=r"'unet' .* quantised, and cannot be loaded here: No GPU found"):
        load_prior(folder)
