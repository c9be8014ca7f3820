"""The identities that define the losses, and the claim that separates VSD from SDS."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler

from guidance import losses
from guidance.classifier_free import classifier_free_guidance
from guidance.losses import Scores
from guidance.schedule import NoiseSchedule, Prediction, v_from_epsilon


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scores(scale: float = 7.5, clean: tuple[bool, ...] = (False, False, True)) -> tuple[Scores, torch.Tensor]:
    """Random predictions in all roles, all different, and the conditional one; the last sample is nearly clean."""
    u, c, noise, low_quality, previous, estimate = (random(3, 4, 8, 8, seed=seed) for seed in range(6))
    nearly_clean = torch.tensor(clean).view(-1, 1, 1, 1)
    guided = classifier_free_guidance(u, c, scale)
    return Scores(guided, noise, nearly_clean, u, low_quality, previous, estimate), c


def gradient(loss: str, found: Scores, weight: torch.Tensor) -> torch.Tensor:
    return losses.distillation_gradient(found.guided, losses.LOSSES[loss].baseline(found), weight)


WEIGHT = torch.tensor([0.1, 0.5, 0.9]).view(-1, 1, 1, 1)


def test_every_loss_has_its_own_baseline() -> None:
    found, _ = scores()
    gradients = {loss: gradient(loss, found, WEIGHT) for loss in losses.LOSSES}
    same = [(a, b) for a in gradients for b in gradients if a < b and torch.equal(gradients[a], gradients[b])]
    assert same == [("sdi", "sds")]  # they differ in where the noise comes from
    assert [name for name, loss in losses.LOSSES.items() if loss.inverts] == ["ism", "sdi"]


def test_vsd_with_the_noise_as_baseline_is_sds() -> None:
    """Claim 1."""
    found, _ = scores()
    knowing = replace(found, estimate=found.noise)
    assert torch.equal(gradient("vsd", knowing, WEIGHT), gradient("sds", found, WEIGHT))
    assert torch.equal(gradient("sds", found, WEIGHT), WEIGHT * (found.guided - found.noise))


def test_guidance_scales_follow_diffusers() -> None:
    u, c = random(2, 4, 4, 4), random(2, 4, 4, 4, seed=1)
    assert torch.equal(classifier_free_guidance(u, c, 0.0), u)
    torch.testing.assert_close(classifier_free_guidance(u, c, 1.0), c)
    torch.testing.assert_close(classifier_free_guidance(u, c, 7.5), 7.5 * c - 6.5 * u)


def test_csd_is_the_guidance_term_alone() -> None:
    found, c = scores()
    torch.testing.assert_close(gradient("csd", found, WEIGHT), WEIGHT * 7.5 * (c - found.unconditional))


def test_nfsd_is_delta_d_plus_s_delta_c() -> None:
    """Katzir et al. 2023: delta_D = eps_u where t is small, else eps_u - eps_bad; delta_C = eps_c - eps_u."""
    found, c = scores(scale=3.0)
    delta_c = c - found.unconditional
    delta_d = torch.where(found.nearly_clean, found.unconditional, found.unconditional - found.low_quality)
    torch.testing.assert_close(gradient("nfsd", found, WEIGHT), WEIGHT * (delta_d + 3 * delta_c))


def test_nfsd_without_flaws_is_csd_at_high_noise() -> None:
    found, _ = scores(clean=(False, False, False))
    flawless = replace(found, low_quality=found.unconditional)
    assert torch.equal(gradient("nfsd", flawless, WEIGHT), gradient("csd", found, WEIGHT))


def test_ism_with_no_interval_is_csd() -> None:
    """x_s = x_t: the last prediction of the inversion is the unconditional one at t."""
    found, _ = scores()
    still = replace(found, previous=found.unconditional)
    assert torch.equal(gradient("ism", still, WEIGHT), gradient("csd", found, WEIGHT))


def test_the_clip_loss_is_minus_the_cosine() -> None:
    image, text, negative = (random(5, 16, seed=seed) for seed in range(3))
    units = [torch.nn.functional.normalize(x, dim=-1) for x in (image, text, negative)]
    nothing = torch.zeros(5, 16)
    expected = -torch.cosine_similarity(image, text)
    torch.testing.assert_close(losses.clip_loss(units[0], units[1], nothing), expected)
    torch.testing.assert_close(losses.clip_loss(*units), expected + torch.cosine_similarity(image, negative))


def test_as_loss_has_exactly_the_gradient() -> None:
    """Also where latents are so large that a squared distance would lose the gradient's digits."""
    latents = (1e4 * random(4, 4, 8, 8)).requires_grad_()
    gradient = 1e-3 * random(4, 4, 8, 8, seed=1)
    loss = losses.as_loss(latents, gradient)
    loss.backward()
    assert torch.equal(latents.grad, gradient / 4)
    torch.testing.assert_close(loss.detach(), gradient.square().sum() / 8)


def test_clipping_shrinks_only_what_is_too_large() -> None:
    gradient = torch.stack([10 * random(4, 8, 8), 0.1 * random(4, 8, 8, seed=1), torch.zeros(4, 8, 8)])
    clipped = losses.clip_gradient(gradient, 1.0)
    torch.testing.assert_close(losses.rms(clipped)[0], torch.tensor(1.0))
    torch.testing.assert_close(clipped[0] / losses.rms(clipped)[0], gradient[0] / losses.rms(gradient)[0])
    assert torch.equal(clipped[1:], gradient[1:])
    assert losses.clip_gradient(gradient, None) is gradient


@pytest.mark.parametrize("kind", ["velocity", "epsilon"])
def test_the_estimator_loss_means_the_same_for_epsilon_and_v_networks(kind: str) -> None:
    """Two networks that say the same, one in eps and one in v, have the same loss and gradients alike."""
    x_0, noise = random(6, 4, 4, 4).double(), random(6, 4, 4, 4, seed=1).double()
    sigma = torch.linspace(0.1, 0.99, 6, dtype=torch.float64).view(-1, 1, 1, 1)
    alpha = (1 - sigma.square()).sqrt()
    x_t = alpha * x_0 + sigma * noise
    epsilon = noise + 0.1 * random(6, 4, 4, 4, seed=2)
    v = v_from_epsilon(epsilon, x_t, alpha, sigma)
    said_in_epsilon = losses.estimator_loss(Prediction(epsilon, "epsilon", x_t, alpha, sigma), x_0, noise, kind)
    said_in_v = losses.estimator_loss(Prediction(v, "v", x_t, alpha, sigma), x_0, noise, kind)
    torch.testing.assert_close(said_in_epsilon, said_in_v)
    direct = (v - (alpha * noise - sigma * x_0)) if kind == "velocity" else epsilon - noise
    torch.testing.assert_close(said_in_v, direct.square().mean())


def test_an_unknown_estimator_loss_is_named() -> None:
    x = torch.zeros(1, 1, 1, 1)
    with pytest.raises(ValueError, match="'vv' is unknown; use one of velocity, epsilon"):
        losses.estimator_loss(Prediction(x, "epsilon", x, x + 1, x), x, x, "vv")


# Claim 3, on a line: p_0 is a mixture of two Gaussians, the "renders" are 64 particles.
MODES, SPREAD, PARTICLES = 1.5, 0.30, 64


def mixture_epsilon(x_t: torch.Tensor, centres: torch.Tensor, spread: float, alpha: float, sigma: float):
    """E[eps | x_t] for x_0 from an equal mixture of Gaussians, exactly: -sigma times the score."""
    variance = alpha**2 * spread**2 + sigma**2
    distance = alpha * centres - x_t[..., None]
    responsibility = torch.softmax(-distance.square() / (2 * variance), dim=-1)
    return -sigma * (responsibility * distance).sum(-1) / variance


def distil(loss: str, iterations: int = 1500, draws: int = 16) -> torch.Tensor:
    """Particles after gradient descent with exact scores of data and particles."""
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    schedule = NoiseSchedule.variance_preserving(scheduler.alphas_cumprod)
    g = torch.Generator().manual_seed(0)
    particles = torch.randn(PARTICLES, generator=g)
    centres = torch.tensor([-MODES, MODES])
    for iteration in range(iterations):
        low, high = (20, 980) if iteration < iterations // 2 else (20, 500)
        t = torch.randint(low, high, (1,), generator=g)
        alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
        noise = torch.randn(draws, PARTICLES, generator=g)
        x_t = alpha * particles + sigma * noise
        noise_pred = mixture_epsilon(x_t, centres, SPREAD, alpha, sigma)
        # Every particle is a Gaussian of zero width: the exact score of the noisy particles.
        baseline = mixture_epsilon(x_t, particles, 0.0, alpha, sigma) if loss == "vsd" else noise
        gradient = losses.distillation_gradient(noise_pred, baseline, schedule.weight(t).view(1, 1))
        particles = particles - 0.1 * gradient.mean(0)
    return particles


def spread_of_modes(particles: torch.Tensor) -> float:
    groups = [particles[particles < 0], particles[particles >= 0]]
    assert all(len(group) > PARTICLES // 8 for group in groups), "a mode was lost"
    return sum(group.std().item() * len(group) for group in groups) / PARTICLES


def test_sds_collapses_modes_and_vsd_keeps_them() -> None:
    """Claim 3."""
    assert spread_of_modes(distil("sds")) < 0.1
    assert 0.27 < spread_of_modes(distil("vsd")) < 0.34
