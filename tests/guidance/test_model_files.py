"""Models as people have them: fp16 files alone, one file, added LoRA files and words, quantised weights.

Each must give the numbers of the plain folder, or of diffusers' own pipeline with the same additions.
"""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from guidance.config import EstimatorConfig
from guidance.estimator import LoraEstimator
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
            with warnings.catch_warnings(action="ignore"):
                pipeline.save_lora_weights(place, **layers)
            found.setdefault(family, []).append(place / "pytorch_lora_weights.safetensors")
    return found


def with_loras(folder: Path, files: list[Path], scales: list[float]) -> DiffusionPipeline:
    pipeline = DiffusionPipeline.from_pretrained(folder)
    names = [f"lora_{number}" for number in range(len(files))]
    for file, name in zip(files, names, strict=True):
        pipeline.load_lora_weights(file, adapter_name=name)
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


def test_a_web_uis_lora_file(folders, loras, tmp_path) -> None:
    """Kohya's names, with an alpha for each layer."""
    weights = load_file(loras["epsilon"][1])
    kohya: dict[str, torch.Tensor] = {}
    for name, value in weights.items():
        layer, _, kind = name.removeprefix("unet.").partition(".lora")
        if "resnets" in layer:
            continue
        end = {"_A.weight": "lora_down.weight", "_B.weight": "lora_up.weight"}[kind.replace("_A.default", "_A")]
        stem = f"lora_unet_{layer.replace('.', '_')}"
        kohya |= {f"{stem}.{end}": value, f"{stem}.alpha": torch.tensor(1.0)}
    save_file(kohya, tmp_path / "kohya.safetensors")
    prior = load_prior(ModelFiles(folders["epsilon"], loras=(Lora(str(tmp_path / "kohya.safetensors")),)))
    pipeline = with_loras(folders["epsilon"], [tmp_path / "kohya.safetensors"], [1.0])
    text, t, x_t = prior.encode_text(["a red mug"]), torch.tensor([500]), torch.randn(1, *prior.latent_shape)
    with torch.no_grad():
        assert_equal_to_rounding(*(prior.predict(x_t, t, text, network).output for network in (None, pipeline.unet)))


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
