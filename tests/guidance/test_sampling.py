"""DDIM against distributions that are known, and pictures of the right form."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler

from guidance.config import TextConfig
from guidance.prompts import embed_prompt
from guidance.sampling import ddim, sampling_levels
from guidance.schedule import NoiseSchedule, Prediction
from tests.guidance.steps import guidance_of, latents_of, seeded

MEAN, SPREAD = 0.7, 0.3


@pytest.mark.parametrize("kind", ["epsilon", "v", "flow"])
def test_ddim_draws_from_a_gaussian(kind: str) -> None:
    """With the exact prediction for x_0 ~ N(mean, spread^2), samples have that mean and spread."""
    if kind == "flow":
        schedule = NoiseSchedule.flow_matching(torch.arange(1, 1001) / 1000)
    else:
        scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        schedule = NoiseSchedule.variance_preserving(scheduler.alphas_cumprod)

    def predict(x_t: torch.Tensor, t: torch.Tensor) -> Prediction:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        epsilon = sigma * (x_t - alpha * MEAN) / (alpha**2 * SPREAD**2 + sigma**2)
        x_0 = MEAN + alpha * SPREAD**2 * (x_t - alpha * MEAN) / (alpha**2 * SPREAD**2 + sigma**2)
        blank = Prediction(epsilon, kind, x_t, alpha, sigma)
        return blank.with_output(blank.target(x_0, epsilon))

    noise = torch.randn(4000, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    samples = ddim(predict, noise, schedule, 200)
    assert samples.mean().item() == pytest.approx(MEAN, abs=0.05)
    assert samples.std().item() == pytest.approx(SPREAD, abs=0.02)


def test_levels_run_from_the_noisiest_down() -> None:
    schedule = NoiseSchedule.flow_matching(torch.arange(1, 1001) / 1000)
    assert sampling_levels(schedule, 4).tolist() == [999, 749, 500, 250]
    assert sampling_levels(schedule, 1).tolist() == [999]
    for steps in (0, 1001):
        with pytest.raises(ValueError, match=rf"steps: {steps} is not in 1\.\.1000"):
            sampling_levels(schedule, steps)


def test_prior_and_fresh_estimator_draw_the_same_pictures(prior, prompts, cameras) -> None:
    """Without guidance and with the view words dropped, as the estimator reads the plain prompt."""
    same = replace(prompts, views=prompts.plain[torch.zeros(5, dtype=torch.int64)])
    first, second = guidance_of(prior, guidance_scale=1.0).samples(same, cameras, 3, seeded(5))
    assert first.shape == (3, 3, 32, 32) and first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, second)
    guided, _ = guidance_of(prior, guidance_scale=7.5).samples(same, cameras, 3, seeded(5))
    assert not torch.equal(first, guided)
    (alone,) = guidance_of(prior, loss="sds", guidance_scale=1.0).samples(same, cameras, 3, seeded(5))
    assert torch.equal(first, alone)


def test_predictions_are_of_one_render_at_rising_noise(epsilon_prior, cameras) -> None:
    """A fresh estimator sees what the prior sees, and at little noise both see the render."""
    prompts = embed_prompt(epsilon_prior, "a red mug", TextConfig(view_template="{prompt}"))
    guidance, latents = guidance_of(epsilon_prior), latents_of(epsilon_prior, cameras)[:1]
    first, second = guidance.predictions(latents, prompts, cameras[:1], (0.001, 0.5), seeded())
    assert first.shape == (2, 3, 32, 32) and torch.equal(first, second)
    near, far = ((first - guidance.decode(latents)) ** 2).mean(dim=(1, 2, 3))
    assert near < 1e-3 < far
