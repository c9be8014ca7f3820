"""CLIP guidance: the models say what transformers and the judge say, and the gradient is that of -cos."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPModel

from guidance.clip import ClipGuidance
from guidance.config import GuidanceConfig, TextConfig
from guidance.gradients import as_loss
from guidance.image_text import BundledJudge, Clip, ImageTextModel, load_image_text_model
from guidance.prompts import PromptEmbeddings, embed_prompt
from priors.judge_model import load_judge
from priors.world.dataset import draw_instance
from renderers.cameras import Cameras
from tests.rounding import assert_equal_to_rounding
from tests.tiny_image_text import CLIP_SIZE, save_tiny_clip, save_tiny_judge, save_tiny_language_model

RANGE = (0.02, 0.98)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_judge(tmp_path_factory.mktemp("judge"))


@pytest.fixture(params=["clip", "judge"])
def model(request: pytest.FixtureRequest, clip_folder: Path, judge_folder: Path) -> ImageTextModel:
    return load_image_text_model({"clip": clip_folder, "judge": judge_folder}[request.param])


def images_of(model: ImageTextModel, count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, model.image_size, model.image_size, generator=torch.Generator().manual_seed(0))


def step(model: ImageTextModel, images: torch.Tensor, cameras: Cameras, prompts: PromptEmbeddings, **config):
    guidance = ClipGuidance(model, GuidanceConfig(loss="clip", **{"guidance_scale": 1.0} | config))
    return guidance.gradient(guidance.encode(images), prompts, cameras, RANGE, torch.Generator())


def test_a_clip_says_what_transformers_says(clip_folder) -> None:
    ours, theirs = load_image_text_model(clip_folder), CLIPModel.from_pretrained(clip_folder).eval()
    assert isinstance(ours, Clip) and ours.image_size == CLIP_SIZE
    images, texts = images_of(ours), ["a red mug", "a blue chair, back view"]
    tokens = AutoTokenizer.from_pretrained(clip_folder)(texts, padding=True, return_tensors="pt")
    pixels = (images - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    with torch.no_grad():
        expected = theirs(**tokens, pixel_values=pixels)
        assert_equal_to_rounding(ours.encode_images(images), expected.image_embeds)
    assert_equal_to_rounding(ours.encode_text(texts).tokens[:, 0], expected.text_embeds)
    assert (expected.image_embeds[0] - expected.image_embeds[1]).abs().max() > 1e-3


def test_the_judge_says_what_it_says(judge_folder) -> None:
    ours, theirs = load_image_text_model(judge_folder), load_judge(judge_folder)
    assert isinstance(ours, BundledJudge) and ours.image_size == 64
    images = images_of(ours)
    assert_equal_to_rounding(ours.encode_images(images), theirs(images).embedding)
    assert_equal_to_rounding(ours.encode_text(["a red mug"]).tokens[:, 0], theirs.embed_text(["a red mug"]))
    with pytest.raises(ValueError, match=r"'a purple wug': the judge doesn't know \['wug'\]"):
        ours.encode_text(["a purple wug"])


def test_the_judge_finds_a_picture_of_the_prompt_more_similar() -> None:
    """The bundled one, of pictures of its world, also at another size."""
    model = load_image_text_model(Path(__file__).parents[2] / "priors/judge")
    things = [("mug", "red"), ("chair", "blue")]
    drawn = [draw_instance(np.random.default_rng(0), *thing, held_out=None).picture() for thing in things]
    pictures = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255
    for images in (pictures, torch.nn.functional.interpolate(pictures, (96, 96))):
        mug, chair = (model.similarity(images, caption) for caption in ("a red mug", "a blue chair"))
        assert mug[0] > mug[1] + 0.3 and chair[1] > chair[0] + 0.3


def test_no_text_says_nothing(model) -> None:
    tokens = model.encode_text(["", "a red mug"]).tokens
    assert torch.equal(tokens[0], torch.zeros_like(tokens[0]))
    torch.testing.assert_close(tokens[1].norm(), torch.tensor(1.0))


def test_the_gradient_is_that_of_minus_the_cosine(model, cameras) -> None:
    """Of the mean over views, through as_loss as in a training step; each camera has its view's text."""
    prompts = embed_prompt(model, "a red mug", release_text_encoder=False)
    images = images_of(model).requires_grad_()
    output = step(model, images, cameras, prompts)
    as_loss(images, output.gradient).backward()
    direct = images.detach().clone().requires_grad_()
    views = ["a red mug, front view", "a red mug, side view", "a red mug, back view"]
    text = model.encode_text(views).tokens[:, 0]
    cosine = torch.cosine_similarity(model.encode_images(direct), text)
    (-cosine.mean()).backward()
    torch.testing.assert_close(images.grad, direct.grad, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(output.figures["loss/clip"], -cosine.detach().mean())
    assert images.grad.abs().max() > 0 and not output.gradient.requires_grad


def test_going_down_the_gradient_comes_nearer_to_the_text(model, cameras) -> None:
    prompts, images = embed_prompt(model, "a red mug"), images_of(model)
    before = step(model, images, cameras, prompts)
    direction = before.gradient / before.gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    after = step(model, images - 0.05 * direction, cameras, prompts)
    assert after.figures["loss/clip"] < before.figures["loss/clip"]


def test_a_negative_prompt_pushes_away_as_the_prompt_pulls(model, cameras) -> None:
    def gradient(prompt: str, negative: str = "") -> torch.Tensor:
        text = TextConfig(negative, view_template="{prompt}")
        prompts = embed_prompt(model, prompt, text, release_text_encoder=False)
        return step(model, images_of(model), cameras, prompts).gradient

    both = gradient("a red mug", "a blue chair")
    torch.testing.assert_close(both, gradient("a red mug") - gradient("a blue chair"), rtol=1e-3, atol=1e-6)


def test_scale_and_limit_act_on_the_gradient(model, cameras) -> None:
    prompts, images = embed_prompt(model, "a red mug"), images_of(model)
    plain = step(model, images, cameras, prompts).gradient
    assert_equal_to_rounding(step(model, images, cameras, prompts, guidance_scale=3.0).gradient, 3 * plain)
    limited = step(model, images, cameras, prompts, max_gradient_rms=1e-6).gradient
    assert_equal_to_rounding(limited.square().mean(dim=(1, 2, 3)).sqrt(), torch.full((3,), 1e-6), limited[0].numel())


def test_it_owns_no_weight_and_the_text_encoder_can_go(model, cameras) -> None:
    guidance = ClipGuidance(model, GuidanceConfig(loss="clip"))
    assert not guidance.state_dict() and not list(guidance.parameters())
    assert guidance.estimator is None and guidance.latent_shape == ()
    images, prompts = images_of(model), embed_prompt(model, "a red mug", release_text_encoder=False)
    assert guidance.samples(prompts, cameras, 3, torch.Generator()) == []
    assert guidance.predictions(images[:1], prompts, cameras[:1], (0.5,), torch.Generator()) == []
    assert torch.equal(guidance.decode(guidance.encode(images)), images)
    before = sum(p.numel() for p in model.frozen.module.parameters())
    embed_prompt(model, "a red mug")
    if isinstance(model, Clip):
        assert sum(p.numel() for p in model.frozen.module.parameters()) < before


@pytest.mark.parametrize("missing", ["model.safetensors", "preprocessor_config.json"])
def test_an_incomplete_clip_is_named(tmp_path, missing: str) -> None:
    folder = save_tiny_clip(tmp_path / "clip")
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=r"guidance\.clip_model: .*clip' cannot be loaded .* use priors/judge"):
        load_image_text_model(folder)


def test_another_model_is_no_clip(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"guidance\.clip_model: .*nowhere' cannot be loaded"):
        load_image_text_model(tmp_path / "nowhere")
    folder = save_tiny_language_model(tmp_path / "bert")
    with pytest.raises(ValueError, match=r"guidance\.clip_model: .* of a model of type 'bert', a 'clip' is needed"):
        load_image_text_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=r"guidance\.clip_model: "):
        load_image_text_model(folder)


def test_a_clip_without_its_mean_colour_is_an_error(tmp_path) -> None:
    folder = save_tiny_clip(tmp_path / "clip")
    path = folder / "preprocessor_config.json"
    content = json.loads(path.read_text())
    del content["image_mean"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"guidance\.clip_model: preprocessor_config\.json of .* lacks image_mean"):
        load_image_text_model(folder)
