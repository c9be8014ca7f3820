"""DDIM inversion: exact where the model is, right in the limit where it can be known, the same for both schedules."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from guidance.config import InversionConfig
from guidance.inversion import inversion_levels, invert
from guidance.schedule import NoiseSchedule, Prediction

SPREAD = 0.7  # standard deviation of the data in the model that is known exactly


@pytest.fixture(params=["variance preserving", "flow"])
def schedule(request: pytest.FixtureRequest) -> NoiseSchedule:
    if request.param == "flow":
        return NoiseSchedule.flow_matching(torch.arange(1, 1001) / 1000)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return NoiseSchedule.variance_preserving(scheduler.alphas_cumprod)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def said(epsilon: torch.Tensor, kind: str, x_t: torch.Tensor, t: torch.Tensor, schedule: NoiseSchedule) -> Prediction:
    """A network that means ``epsilon`` and says it in its own form: as v or flow of the x_0 that epsilon implies."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    output = {"epsilon": epsilon, "v": (epsilon - sigma * x_t) / alpha, "flow": (epsilon - x_t) / alpha}[kind]
    return Prediction(output, kind, x_t, alpha, sigma)


def gaussian(kind: str, schedule: NoiseSchedule):
    """The exact prediction for data from a normal distribution: linear in x_t."""

    def predict(x_t: torch.Tensor, t: torch.Tensor) -> Prediction:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return said(sigma * x_t / (alpha**2 * SPREAD**2 + sigma**2), kind, x_t, t, schedule)

    return predict


@pytest.mark.parametrize("steps", [1, 7])
def test_inverting_and_sampling_gives_the_latents_back(schedule, steps: int) -> None:
    """With a model that always sees the same noise every step is exact, up and down."""
    x_0, noise = random(3, 4, 8, 8), random(3, 4, 8, 8, seed=1)
    levels = inversion_levels(torch.tensor([700, 20, 333]), InversionConfig(steps=steps), schedule)

    def predict(x_t: torch.Tensor, t: torch.Tensor) -> Prediction:
        return said(noise, "epsilon", x_t, t, schedule)

    found = invert(predict, x_0, levels, schedule)
    torch.testing.assert_close(found.x_t, schedule.add_noise(x_0, noise, levels[-1]), rtol=1e-4, atol=1e-4)
    x = found.x_t
    for index in reversed(range(len(levels))):
        prediction = predict(x, levels[index])
        cleaner = levels[index - 1]
        x = schedule.add_noise(prediction.x_0, prediction.epsilon, cleaner) if index else prediction.x_0
    torch.testing.assert_close(x, x_0, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["epsilon", "v or flow"])
def test_many_steps_follow_the_probability_flow(schedule, kind: str) -> None:
    """For normal data it scales x_0 to the deviation at t; more steps come nearer, whatever the network predicts."""
    if kind != "epsilon":
        kind = "flow" if schedule.alphas[-1] == 0 else "v"
    x_0, t = SPREAD * random(2, 4, 8, 8), torch.tensor([400, 900])
    exact = x_0 * (schedule.alpha(t) ** 2 * SPREAD**2 + schedule.sigma(t) ** 2).sqrt() / SPREAD

    def error(steps: int) -> float:
        levels = inversion_levels(t, InversionConfig(steps=steps), schedule)
        return ((invert(gaussian(kind, schedule), x_0, levels, schedule).x_t - exact).norm() / exact.norm()).item()

    coarse, fine = error(10), error(200)
    assert fine < 0.02 and fine < coarse / 3


def test_the_last_prediction_is_that_of_the_level_before(schedule) -> None:
    asked = []
    predict = gaussian("epsilon", schedule)

    def spied(x_t: torch.Tensor, t: torch.Tensor) -> Prediction:
        asked.append(t.tolist())
        return predict(x_t, t)

    x_0 = random(2, 4, 8, 8)
    levels = inversion_levels(torch.tensor([500, 900]), InversionConfig(steps=3, interval=0.05), schedule)
    assert levels.tolist() == [[225, 425], [450, 850], [500, 900]]
    found = invert(spied, x_0, levels, schedule)
    assert asked == [[0, 0], [225, 425], [450, 850]]
    shorter = invert(predict, x_0, levels[:2], schedule)
    assert torch.equal(found.epsilon, predict(shorter.x_t, levels[1]).epsilon)


def test_levels_rise_and_end_at_t(schedule) -> None:
    t = torch.tensor([0, 3, 999])
    for config in (InversionConfig(), InversionConfig(interval=0.2), InversionConfig(steps=2, interval=0.2)):
        levels = inversion_levels(t, config, schedule)
        assert len(levels) == config.steps and torch.equal(levels[-1], t)
        assert (levels >= 0).all() and (levels.diff(dim=0) >= 0).all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"steps": 0}, "steps\n.* greater than 0"),
        ({"interval": 0.0}, "interval\n.* greater than 0"),
        ({"guidance_scale": float("inf")}, "guidance_scale\n.* finite number"),
        ({"steps": 1, "interval": 0.1}, "steps and interval: 1 steps leave none before the interval"),
    ],
)
def test_bad_configs(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InversionConfig(**config)
