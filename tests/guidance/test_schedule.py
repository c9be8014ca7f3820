"""Conversions are each other's inverses, and tables agree with diffusers."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from guidance import schedule as s
from guidance.schedule import NoiseSchedule, Prediction


def vp_schedule() -> NoiseSchedule:
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return NoiseSchedule.variance_preserving(scheduler.alphas_cumprod)


def flow_schedule() -> NoiseSchedule:
    return NoiseSchedule.flow_matching(torch.arange(1, 1000) / 1000)


def drawn(schedule: NoiseSchedule, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    t = torch.linspace(0, len(schedule) - 1, 50).long()
    # Read the levels in float64 and restore their defining identity, which float32 tables round.
    sigma = schedule.sigma(t).double()
    alpha = (1 - sigma.square()).sqrt() if schedule.alphas[0] ** 2 + schedule.sigmas[0] ** 2 > 0.9999 else 1 - sigma
    x_0, noise = (torch.randn(50, 4, 2, 2, generator=g, dtype=torch.float64) for _ in range(2))
    x_t = alpha * x_0 + sigma * noise
    return tuple(value.to(dtype) for value in (x_0, noise, x_t, alpha, sigma))


@pytest.mark.parametrize("make", [vp_schedule, flow_schedule])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-6)], ids=["float64", "float32"]
)
def test_every_form_returns_to_epsilon(make, dtype, tolerance) -> None:
    """Claim 4: round trips keep 1e-6, in float32 relative to how much a form amplifies rounding."""
    schedule = make()
    is_flow = make is flow_schedule
    x_0, noise, x_t, alpha, sigma = drawn(schedule, dtype)
    amplification = (1 / alpha + 1 / sigma).amax()  # of a rounding error by the divisions on the way

    def check(actual: torch.Tensor, expected: torch.Tensor) -> None:
        worst = (actual - expected).abs().max() / expected.abs().max()
        assert worst < tolerance * (amplification if dtype == torch.float32 else 1)

    check(s.x0_from_epsilon(noise, x_t, alpha, sigma), x_0)
    check(s.epsilon_from_x0(x_0, x_t, alpha, sigma), noise)
    if is_flow:
        check(s.epsilon_from_flow(noise - x_0, x_t, alpha, sigma), noise)
        check(s.x0_from_flow(noise - x_0, x_t, alpha, sigma), x_0)
    else:
        v = alpha * noise - sigma * x_0
        check(s.epsilon_from_v(v, x_t, alpha, sigma), noise)
        check(s.x0_from_v(v, x_t, alpha, sigma), x_0)


@pytest.mark.parametrize("kind", ["epsilon", "v", "flow"])
def test_a_right_prediction_reads_right_in_every_form(kind: str) -> None:
    x_0, noise, x_t, alpha, sigma = drawn(flow_schedule() if kind == "flow" else vp_schedule(), torch.float64)
    blank = Prediction(torch.zeros_like(x_t), kind, x_t, alpha, sigma)
    right = blank.with_output(blank.target(x_0, noise))
    torch.testing.assert_close(right.epsilon, noise)
    torch.testing.assert_close(right.x_0, x_0)


def test_tables_and_weight_agree_with_diffusers() -> None:
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    schedule = NoiseSchedule.variance_preserving(scheduler.alphas_cumprod)
    t = torch.arange(0, 1000, 37)
    torch.testing.assert_close(schedule.weight(t).flatten(), 1 - scheduler.alphas_cumprod[t], rtol=1e-5, atol=1e-6)
    g = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(len(t), 4, 2, 2, generator=g), torch.randn(len(t), 4, 2, 2, generator=g)
    torch.testing.assert_close(schedule.add_noise(x_0, noise, t), scheduler.add_noise(x_0, noise, t))
    assert schedule.weight(t).dtype == torch.float32


def test_levels_fill_their_range_evenly() -> None:
    schedule = vp_schedule()
    g = torch.Generator().manual_seed(0)
    everywhere = schedule.sample_t(200_000, (0.0, 1.0), g, "cpu")
    assert everywhere.min() == 0 and everywhere.max() == 999
    counts = torch.bincount(everywhere // 100, minlength=10) / 200_000
    assert (counts - 0.1).abs().max() < 0.005
    part = schedule.sample_t(10_000, (0.02, 0.5), g, "cpu")
    assert part.min() == 20 and part.max() == 499
    assert (schedule.sample_t(5, (1.0, 1.0), g, "cpu") == 999).all()


@pytest.mark.parametrize("t_range", [(0.5, 0.02), (-0.1, 0.5), (0.0, 1.1), (float("nan"), 0.5)])
def test_a_bad_range_is_named(t_range) -> None:
    with pytest.raises(ValueError, match=r"t_range: .* write \[low, high\]"):
        vp_schedule().sample_t(1, t_range, torch.Generator(), "cpu")


def test_a_schedule_must_grow_noisier() -> None:
    with pytest.raises(ValueError, match="falling with t"):
        NoiseSchedule.variance_preserving(torch.tensor([0.5, 0.9]))
