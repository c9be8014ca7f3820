"""The bundled prior's weights do what its card says, on a sample small enough for a test."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from files.checksums import verify_checksums
from guidance.config import EstimatorConfig, GuidanceConfig, NfsdConfig
from guidance.estimator import LoraEstimator
from guidance.loading import load_prior
from guidance.prompts import embed_prompt
from guidance.score_distillation import ScoreDistillation
from priors.assemble import DEFAULT_PRIOR
from priors.evaluate import sample_pictures
from priors.judge_model import DEFAULT_JUDGE, load_judge
from priors.train_autoencoder import psnr
from priors.train_judge import measure
from priors.world.appearance import COLORS
from priors.world.captions import vocabulary
from priors.world.dataset import sample_instance
from renderers.cameras import turntable_cameras
from tests.guidance.steps import LATENT_LOSSES


@pytest.fixture(scope="module")
def pipeline():
    return StableDiffusionPipeline.from_pretrained(DEFAULT_PRIOR)


@pytest.fixture(scope="module")
def fresh():
    return torch.from_numpy(np.stack([sample_instance(202, i).picture() for i in range(100)]))


def test_size_checksums_and_vocabulary():
    assert sum(path.stat().st_size for path in DEFAULT_PRIOR.rglob("*") if path.is_file()) <= 48e6
    verify_checksums(DEFAULT_PRIOR)
    assert (DEFAULT_PRIOR / "vocabulary.txt").read_text().split("\n")[:-1] == vocabulary()


def test_it_is_a_plain_stable_diffusion_pipeline(pipeline):
    assert pipeline.unet.config.cross_attention_dim == pipeline.text_encoder.config.hidden_size
    assert pipeline.scheduler.config.prediction_type == "epsilon"
    assert pipeline.scheduler.config.clip_sample is False
    latents = pipeline.vae.encode(torch.zeros(1, 3, 128, 128)).latent_dist.mode()
    assert latents.shape[-2:] == (16, 16)


def test_it_loads_in_one_type_and_works_without_arguments(pipeline):
    assert {part.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.float32}
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a red mug", num_inference_steps=2, output_type="pt").images
    assert picture.shape == (1, 3, 128, 128) and picture.isfinite().all()


def test_the_text_encoder_has_the_stored_weights_all_of_them(pipeline):
    stored = load_file(DEFAULT_PRIOR / "text_encoder" / "model.safetensors")
    loaded = {name.removeprefix("text_model."): value for name, value in pipeline.text_encoder.state_dict().items()}
    assert {name.removeprefix("text_model.") for name in stored} == loaded.keys()
    for name, value in stored.items():
        assert torch.equal(loaded[name.removeprefix("text_model.")], value)


def test_no_configuration_names_a_folder():
    for path in DEFAULT_PRIOR.rglob("*.json"):
        assert "_name_or_path" not in path.read_text(encoding="utf-8"), path


def test_autoencoder_reconstructs_fresh_pictures(pipeline, fresh):
    assert psnr(pipeline.vae, fresh) > 29.5  # docs/priors.md has the mean of 1,000 pictures


def test_latents_have_unit_deviation(pipeline, fresh):
    x = fresh.permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        latents = pipeline.vae.encode(x).latent_dist.mode() * pipeline.vae.config.scaling_factor
    assert latents.std().item() == pytest.approx(1, abs=0.1)


def _object_color(picture):
    """The named colour nearest to the median of what differs from the border's colour."""
    border = torch.cat([picture[:, :2].flatten(1), picture[:, -2:].flatten(1)], dim=1).median(dim=1).values
    differs = (picture - border[:, None, None]).abs().amax(dim=0) > 0.12
    color = picture[:, differs].median(dim=1).values
    names = list(COLORS)
    # Shading scales a colour, so that it is compared in direction as well as in length.
    table = torch.tensor([COLORS[name] for name in names])
    return names[int((table * 0.8 - color).square().sum(dim=-1).argmin())]


def test_the_yardstick_reads_world_pictures():
    instances = [sample_instance(77, i) for i in range(60)]
    plain = [i for i in instances if i.pattern == "plain"]
    right = [_object_color(torch.from_numpy(i.picture(64)).permute(2, 0, 1) / 255) == i.color for i in plain]
    assert np.mean(right) > 0.5  # twelve colours: chance is 0.08


def test_samples_have_the_colour_that_was_asked_for(pipeline):
    wanted = ["red", "green", "blue", "purple"] * 3
    prompts = [
        f"a plain {color} {name}, side view" for color, name in zip(wanted, ["car", "chair", "teapot"] * 4, strict=True)
    ]
    pictures = sample_pictures(pipeline, prompts, steps=12, scale=3.0, seed=0)
    right = [_object_color(picture) == color for picture, color in zip(pictures, wanted, strict=True)]
    assert np.mean(right) >= 0.6


def test_the_judge_is_small_and_reads_fresh_pictures():
    assert sum(path.stat().st_size for path in DEFAULT_JUDGE.rglob("*") if path.is_file()) <= 12e6
    instances = [sample_instance(303, i) for i in range(250)]
    images, labels = np.stack([each.picture(64) for each in instances]), [each.labels() for each in instances]
    accuracy = measure(load_judge(), images, labels)
    # Its card's figures are of 4,000 pictures; 250 leave a standard error of more than a point.
    assert accuracy["class"] >= 0.95 and accuracy["color"] >= 0.95
    assert accuracy["pattern"] >= 0.9 and accuracy["view"] >= 0.9


@pytest.mark.parametrize("loss", LATENT_LOSSES)
def test_every_loss_pulls_with_it(loss):
    """A finite gradient at grey pictures; the estimator, which begins as the frozen network, leaves guidance alone."""
    prior = load_prior(DEFAULT_PRIOR)
    config = GuidanceConfig(loss=loss, nfsd=NfsdConfig(low_quality=""))
    estimator = None
    if config.trains_estimator:
        estimator = LoraEstimator(prior, EstimatorConfig(rank=8), torch.Generator().manual_seed(0))
    guidance = ScoreDistillation(prior, estimator, config)
    prompts = embed_prompt(prior, "a red mug", further=config.further_texts)
    cameras = turntable_cameras(2, elevation_deg=15.0, distance=2.9, fovy_deg=41.0)
    grey = prior.encode_images(torch.full((2, 3, prior.image_size, prior.image_size), 0.5))
    output = guidance.gradient(grey, prompts, cameras, (0.5, 0.9), torch.Generator().manual_seed(0))
    assert output.gradient.isfinite().all() and output.gradient.abs().mean() > 1e-3
    if estimator is not None:
        assert output.figures["grad/latents_residual"] < 0.5 * output.figures["grad/latents_guidance"]
