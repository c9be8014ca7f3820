"""Loading a prior: what comes out agrees with diffusers, what is wrong is named."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path

import huggingface_hub.errors as hub_errors
import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline

from configs.sources import CONFIG_FOLDER
from files.checksums import write_checksums
from guidance import hub, loading
from guidance.families.text import tokenize
from guidance.loading import load_prior
from tests.rounding import assert_equal_to_rounding
from tests.tiny_priors import LATENT_CHANNELS, save_tiny_stable_diffusion


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folders["epsilon"], tmp_path / "prior"))


def images(size: int = 32) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_parts_agree_with_the_diffusers_pipeline(stable_diffusion_prior) -> None:
    prior = stable_diffusion_prior
    pipeline = StableDiffusionPipeline.from_pretrained(prior.files.place)
    text = prior.encode_text(["a red mug", ""])
    expected, unconditional = pipeline.encode_prompt("a red mug", "cpu", 1, True, "")
    assert_equal_to_rounding(text.tokens, torch.cat([expected, unconditional]))

    latents = prior.encode_images(images())
    assert latents.shape == (2, *prior.latent_shape) and prior.image_size == 32
    posterior = pipeline.vae.encode(images() * 2 - 1).latent_dist
    assert_equal_to_rounding(latents, posterior.mean * pipeline.vae.config.scaling_factor)
    decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    assert_equal_to_rounding(prior.decode_latents(latents), pipeline.image_processor.denormalize(decoded))

    t = torch.tensor([10, 900])
    step = pipeline.scheduler  # DDIM's own reading of the output as x_0
    step.set_timesteps(1000)
    prediction = prior.predict(latents, t, text)
    for row in range(2):
        output = prediction.output[row : row + 1]
        expected = step.step(output, int(t[row]), latents[row : row + 1]).pred_original_sample
        torch.testing.assert_close(prediction.x_0[row : row + 1], expected, rtol=1e-4, atol=1e-4)


def test_images_have_a_gradient_and_weights_have_none(prior) -> None:
    x = images().requires_grad_()
    prior.encode_images(x).sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
    assert list(prior.parameters()) == [] and prior.state_dict() == {}
    assert all(p.grad is None and not p.requires_grad for p in prior.network.parameters())


def test_training_mode_and_moves(epsilon_prior) -> None:
    holder = torch.nn.ModuleList([epsilon_prior]).train()
    assert not epsilon_prior.network.training
    holder.to(torch.float64)
    assert epsilon_prior.network.dtype == torch.float64, "moves must reach the frozen network"
    assert epsilon_prior.schedule.alphas.dtype == torch.float32, "tables must keep their precision"


def test_half_precision_stays_inside(prior) -> None:
    prior = load_prior(prior.files.place, dtype=torch.bfloat16)
    text = prior.encode_text(["a red mug"])
    latents = prior.encode_images(images()[:1])
    prediction = prior.predict(latents, torch.tensor([500]), text)
    assert prior.network.dtype == torch.bfloat16
    assert latents.dtype == prediction.epsilon.dtype == prediction.x_0.dtype == torch.float32


def test_the_text_encoder_is_freed_and_comes_back(prior) -> None:
    first = prior.encode_text(["a red mug"])
    freed = [weakref.ref(encoder) for encoder in prior.text_encoders]
    prior.release_text_encoder()
    gc.collect()
    assert [encoder() for encoder in freed] == [None] * len(freed)
    assert torch.equal(prior.encode_text(["a red mug"]).tokens, first.tokens)


def test_prompts_that_do_not_fit(epsilon_prior) -> None:
    with pytest.raises(ValueError, match=r"takes 18 tokens, the model's CLIP text encoder takes 16 \([^)]*\); shorten"):
        epsilon_prior.encode_text(["a red mug " * 5 + "mug"])
    with pytest.raises(ValueError, match="list is empty"):
        epsilon_prior.encode_text([])


def test_characters_without_a_token_are_told(prior) -> None:
    """The tiny tokenizers know ASCII; CLIP's mark for the unknown is also that of a text's end."""
    with pytest.raises(ValueError, match=r"tokenizer does not know 日 本 in 'a red 日本 mug, 日', .*text\.negative"):
        prior.encode_text(["a red 日本 mug, 日"])


def test_what_one_of_two_tokenizers_knows_is_a_warning(folders) -> None:
    tokenizer = load_prior(folders["sd3"]).tokenizers[-1]
    with pytest.warns(UserWarning, match="does not know é in 'a café'; another of its text encoders reads them"):
        tokenize(tokenizer, ["a café"], 16, is_alone=False)


def test_a_folder_in_ones_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_prior(f"~/{folder.name}").files.place == folder


def test_the_ids_that_errors_recommend_are_those_of_the_presets() -> None:
    presets = [yaml.safe_load(file.read_text()) for file in (CONFIG_FOLDER / "prior").glob("*.yaml")]
    paths = {preset["prior"]["path"] for preset in presets if "prior" in preset}
    assert {*hub.OPEN_IDS, *hub.GATED_IDS} == paths - {"priors/mini", "priors/mini-mv"}


def test_images_of_an_odd_size(epsilon_prior) -> None:
    with pytest.raises(ValueError, match="33x33 pixels are no multiple of the autoencoder's 2"):
        epsilon_prior.encode_images(images(33))


def test_unknown_words_warn(folder: Path) -> None:
    (folder / "vocabulary.txt").write_text("a\nred\nmug\nchair\n,\n", encoding="utf-8")
    prior = load_prior(folder)
    with pytest.warns(UserWarning, match=r"'mugs' is not among the 5 words .* did you mean 'mug'\?") as caught:
        prior.encode_text(["a red mugs", "A RED mug, mugs"])
    assert len(caught) == 1


@pytest.mark.filterwarnings("error")
def test_known_words_do_not_warn(folder: Path) -> None:
    (folder / "vocabulary.txt").write_text("a\nred\nmug\n", encoding="utf-8")
    load_prior(folder).encode_text(["a red mug", "A Red, mug", ""])


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def test_checksums_name_the_damaged_file(folder: Path) -> None:
    write_checksums(folder)
    load_prior(folder)
    weights = folder / WEIGHTS
    good = weights.read_bytes()
    weights.write_bytes(good[:-1000])
    with pytest.raises(ValueError, match=rf"{WEIGHTS}.*truncated or altered"):
        load_prior(folder)
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ValueError, match=rf"{WEIGHTS}.*truncated or altered"):
        load_prior(folder)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{WEIGHTS}: missing"):
        load_prior(folder)


def test_truncated_weights_without_checksums(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"weights of 'unet' in .* are broken"):
        load_prior(folder)


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_component_is_named(folder: Path, component: str) -> None:
    shutil.rmtree(folder / component)
    with pytest.raises(FileNotFoundError, match=f"lacks the component '{component}'"):
        load_prior(folder)


def test_a_component_without_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"'unet' of .* cannot be loaded"):
        load_prior(folder)


@pytest.mark.parametrize("names", [["tokenizer.json", "vocab.json", "merges.txt"], ["tokenizer_config.json"]])
def test_a_tokenizer_without_its_files(folder: Path, names: list[str]) -> None:
    """Transformers 5 loads such a tokenizer without complaint, and then knows no word or no limit."""
    for name in names:  # which of them there are depends on transformers
        (folder / "tokenizer" / name).unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match=rf"the tokenizer of .* lacks .*{names[-1]}"):
        load_prior(folder)


def test_a_component_that_the_index_leaves_out(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    del index["vae"]
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"lacks the component 'vae': its entry in model_index\.json"):
        load_prior(folder)


def test_models_of_another_kind(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is no diffusers model: it has no model_index\.json"):
        load_prior(tmp_path)
    index = folder / "model_index.json"
    for family, words in {
        "StableDiffusionInpaintPipeline": "image-to-image or inpainting",
        "StableDiffusionXLImg2ImgPipeline": "image-to-image or inpainting",
        "FluxFillPipeline": "image-to-image or inpainting",
        "StableDiffusion3ControlNetPipeline": "a ControlNet model",
        "KandinskyPipeline": "an unsupported model",
    }.items():
        index.write_text(json.dumps({"_class_name": family}), encoding="utf-8")
        with pytest.raises(ValueError, match=rf"{words}.*{family}.*supported .* StableDiffusionPipeline"):
            load_prior(folder)
    index.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="is not valid JSON"):
        load_prior(folder)


def test_an_inpainting_unet(tmp_path: Path) -> None:
    save_tiny_stable_diffusion(tmp_path, in_channels=2 * LATENT_CHANNELS + 1)
    with pytest.raises(ValueError, match="takes 9 channels, the latents have 4: it is an inpainting"):
        load_prior(tmp_path)


def test_an_unknown_prediction_type(tmp_path: Path) -> None:
    save_tiny_stable_diffusion(tmp_path, prediction_type="sample")
    with pytest.raises(ValueError, match=r"prediction_type 'sample'.*supported are epsilon, v_prediction"):
        load_prior(tmp_path)


# Of huggingface_hub 1 and later, and of 0.36.
NOT_IN_THE_REPOSITORY = getattr(hub_errors, "RemoteEntryNotFoundError", hub_errors.EntryNotFoundError)


def raising(error: Exception):
    def download(*_args, **_kwargs):
        raise error

    return download


def http_error(kind: type) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, "refused")
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (http_error(hub_errors.RepositoryNotFoundError), "does not exist on the hub"),
        (http_error(hub_errors.GatedRepoError), "is gated: accept its terms"),
        (hub_errors.LocalEntryNotFoundError("offline"), "the hub cannot be reached"),
        (hub_errors.OfflineModeIsEnabled("offline"), "the hub cannot be reached"),
        (http_error(NOT_IN_THE_REPOSITORY), "is no diffusers pipeline"),
    ],
)
def test_hub_trouble_names_alternatives(monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str) -> None:
    monkeypatch.setattr(loading, "hf_hub_download", raising(error))
    with pytest.raises(FileNotFoundError, match=reason) as caught:
        load_prior("stabilityai/stable-diffusion-2-1")
    message = str(caught.value)
    assert "local folder" in message and all(each in message for each in (*hub.OPEN_IDS, *hub.GATED_IDS))
    if "gated" in reason or "exist" in reason:
        assert "hf auth login" in message


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "mini", "priors/world/none", Path("owner/name")])
def test_a_name_that_is_neither_folder_nor_id(name: str | Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither an existing folder or file nor a hub id"):
        load_prior(name)
