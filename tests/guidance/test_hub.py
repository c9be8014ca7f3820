"""Real models: `pytest -m hub`. Their folders or hub ids come from PROLIFICDREAMER_HUB_MODELS, separated by commas.

Without that variable, Stable Diffusion 2.1 from the hub (some 5 GB at the first run). docs/install.md says more.
"""

from __future__ import annotations

import os

import pytest
import torch

from guidance.config import EstimatorConfig, GuidanceConfig
from guidance.estimator import LoraEstimator
from guidance.gradients import as_loss, rms
from guidance.loading import WORKING_ID, find_index, load_prior
from guidance.prompts import embed_prompt
from guidance.score_distillation import ScoreDistillation
from renderers.cameras import orbit_cameras

VARIABLE = "PROLIFICDREAMER_HUB_MODELS"
MODELS = [name.strip() for name in os.environ.get(VARIABLE, WORKING_ID).split(",")]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

pytestmark = pytest.mark.hub


@pytest.fixture(scope="module", params=MODELS)
def prior(request: pytest.FixtureRequest):
    """Loaded once; skipped where it wasn't asked for or can't be reached."""
    if "hub" not in request.config.getoption("-m"):
        pytest.skip(
            f"large models: run `pytest -m hub`, with {VARIABLE}=FOLDER,OWNER/NAME for others than {WORKING_ID}"
        )
    try:
        find_index(request.param)
    except FileNotFoundError as error:
        if VARIABLE in os.environ:
            raise
        pytest.skip(f"{error}; or set {VARIABLE} to a local folder")
    return load_prior(request.param, DEVICE, torch.bfloat16 if DEVICE.type == "cuda" else torch.float32)


def test_a_real_model(prior) -> None:
    """Pictures survive the autoencoder, predictions beat guessing, the estimator starts as its model, VSD can begin."""
    axis = torch.linspace(-1, 1, prior.image_size, device=DEVICE)
    disc = (axis.square() + axis[:, None].square() < 0.3).float()
    background, red = (torch.tensor(color, device=DEVICE).view(3, 1, 1) for color in ([0.7] * 3, [0.8, 0.2, 0.2]))
    picture = (background + disc * (red - background))[None]
    latents = prior.encode_images(picture)
    assert (prior.decode_latents(latents) - picture).abs().mean() < 0.05
    assert 0.1 < latents.std() < 3, "scaled to about unit variance"

    prompts = embed_prompt(prior, "a red ball")
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    text, c2w = prompts.plain.to(DEVICE), torch.eye(4)[None]
    settings = EstimatorConfig(gradient_checkpointing=True)  # a step of a large model needs much less memory
    estimator = LoraEstimator(prior, settings, torch.Generator().manual_seed(0))
    for fraction in (0.3, 0.5, 0.9):
        t = torch.tensor([int(fraction * len(prior.schedule))], device=DEVICE)
        x_t = prior.schedule.add_noise(latents, noise, t)
        with torch.no_grad():
            prediction = prior.predict(x_t, t, text)
            assert torch.equal(prediction.output, estimator.predict(prior, x_t, t, text, c2w).output)
        assert rms(prediction.epsilon - noise) < 0.7 * rms(noise), f"of the noise at t = {t.item()}"

    ones = torch.ones(1)
    front = orbit_cameras(0 * ones, 10 * ones, ones, 40 * ones)
    guidance = ScoreDistillation(prior, estimator, GuidanceConfig(guidance_scale=4.5))
    few, _ = guidance.samples(prompts.to(DEVICE), front, 4, torch.Generator().manual_seed(0))
    assert torch.isfinite(few).all() and few.std() > 0.02

    picture = picture.clone().requires_grad_()
    latents, generator = guidance.encode(picture), torch.Generator().manual_seed(0)
    output = guidance.gradient(latents, prompts.to(DEVICE), front, (0.1, 0.9), generator)
    as_loss(latents, output.gradient).backward()
    assert picture.grad.isfinite().all() and picture.grad.abs().max() > 0
    guidance.estimator_loss(latents, prompts.to(DEVICE), front, generator).backward()
    gradients = {name: parameter.grad for name, parameter in guidance.named_parameters() if parameter.grad is not None}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert any(gradient.abs().max() > 0 for name, gradient in gradients.items() if ".lora." in name)
