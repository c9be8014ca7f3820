"""Pictures from the prior and from the estimator, to see what each believes.

Deterministic DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 with sigma = 0): step from level t to the
next cleaner one s by x_s = alpha_s x_0 + sigma_s eps, with the network's x_0 and eps at t. For a flow
this is Euler's method along the straight paths.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from guidance.classifier_free import predict_guided
from guidance.estimator import LoraEstimator
from guidance.prior import DiffusionPrior, Images, Latents
from guidance.prompts import PromptEmbeddings
from guidance.schedule import NoiseSchedule, Prediction
from renderers.cameras import Cameras


def sampling_levels(schedule: NoiseSchedule, steps: int) -> Int[Tensor, "steps"]:
    """Evenly spaced noise levels from the noisiest down, without the clean end.

    Raises:
        ValueError: fewer than one step, or more than the schedule has levels.
    """
    if not 1 <= steps <= len(schedule):
        raise ValueError(f"steps: {steps} is not in 1..{len(schedule)}, the levels of this model's schedule")
    return torch.linspace(len(schedule) - 1, 0, steps + 1)[:-1].round().long()


@torch.no_grad()
def ddim(
    predict: Callable[[Latents, Int[Tensor, "batch"]], Prediction], noise: Latents, schedule: NoiseSchedule, steps: int
) -> Latents:
    """Latents that the noise turns into."""
    x_t, levels = noise, sampling_levels(schedule, steps)
    for index, level in enumerate(levels):
        prediction = predict(x_t, level.expand(len(noise)).to(noise.device))
        if index + 1 == len(levels):
            return prediction.x_0
        cleaner = levels[index + 1].expand(len(noise)).to(noise.device)
        x_t = schedule.add_noise(prediction.x_0, prediction.epsilon, cleaner)
    raise AssertionError("sampling_levels returned no level")


def sample_prior(
    prior: DiffusionPrior,
    prompts: PromptEmbeddings,
    cameras: Cameras,
    guidance_scale: float,
    steps: int,
    generator: torch.Generator,
) -> Images:
    """The frozen model's pictures of the prompt, with the view word of each camera."""
    texts = prompts.for_cameras(cameras)

    def predict(x_t: Latents, t: Int[Tensor, "batch"]) -> Prediction:
        return predict_guided(prior, x_t, t, texts.conditional, texts.unconditional, guidance_scale).guided

    return _sample(prior, predict, len(cameras), steps, generator)


def sample_estimator(
    prior: DiffusionPrior,
    estimator: LoraEstimator,
    prompts: PromptEmbeddings,
    cameras: Cameras,
    steps: int,
    generator: torch.Generator,
) -> Images:
    """The estimator's pictures from each camera: what it believes the renders look like."""
    plain = prompts.for_cameras(cameras).plain

    def predict(x_t: Latents, t: Int[Tensor, "batch"]) -> Prediction:
        return estimator.predict(prior, x_t, t, plain, cameras.c2w)

    return _sample(prior, predict, len(cameras), steps, generator)


@torch.no_grad()
def _sample(
    prior: DiffusionPrior,
    predict: Callable[[Latents, Int[Tensor, "batch"]], Prediction],
    count: int,
    steps: int,
    generator: torch.Generator,
) -> Float[Tensor, "batch 3 height width"]:
    shape = (count, *prior.latent_shape)
    noise = torch.randn(shape, generator=generator, device=generator.device).to(prior.device)
    latents = ddim(predict, noise, prior.schedule, steps)
    return torch.cat([prior.decode_latents(each) for each in latents.split(1)])  # pictures take the most memory
