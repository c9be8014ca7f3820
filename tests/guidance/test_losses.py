"""The identities that define the losses, and the claim that separates VSD from SDS."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from guidance import gradients
from guidance.classifier_free import classifier_free_guidance
from guidance.config import GuidanceConfig
from guidance.losses import clip
from guidance.registry import LOSSES, Predictions, distillation_loss
from guidance.schedule import NoiseSchedule, Prediction
from tests.guidance.steps import LATENT_LOSSES


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def known(loss: str, scale: float = 7.5, clean: tuple[bool, ...] = (False, False, True), **instead) -> Predictions:
    """Random predictions in all roles, all different; the last sample is nearly clean."""
    names = ("unconditional", "conditional", "noise", "low_quality", "of_inversion", "of_estimator")
    drawn = {name: random(3, 4, 8, 8, seed=seed) for seed, name in enumerate(names)} | instead
    by_text = {name: drawn.pop(name) for name in ("unconditional", "conditional", "low_quality")}
    guided = classifier_free_guidance(by_text["unconditional"], by_text["conditional"], scale)
    t = torch.where(torch.tensor(clean), 0.1, 0.6).view(-1, 1, 1, 1)
    return Predictions(loss=LOSSES[loss], guided=guided, t=t, by_text=by_text, **drawn)


def gradient(found: Predictions) -> torch.Tensor:
    baseline = found.loss.function(found, GuidanceConfig(loss=found.loss.name))
    return gradients.distillation_gradient(found.guided, baseline, WEIGHT)


WEIGHT = torch.tensor([0.1, 0.5, 0.9]).view(-1, 1, 1, 1)


def test_every_loss_has_its_own_baseline() -> None:
    found = {loss: gradient(known(loss)) for loss in LATENT_LOSSES}
    same = [(a, b) for a in found for b in found if a < b and torch.equal(found[a], found[b])]
    assert same == [("sdi", "sds")]  # they differ in where the noise comes from
    assert [name for name, loss in LOSSES.items() if loss.inverts] == ["ism", "sdi"]


def test_vsd_with_the_noise_as_baseline_is_sds() -> None:
    """Claim 1."""
    sds = known("sds")
    assert torch.equal(gradient(known("vsd", of_estimator=sds.noise)), gradient(sds))
    assert torch.equal(gradient(sds), WEIGHT * (sds.guided - sds.noise))


def test_guidance_scales_follow_diffusers() -> None:
    u, c = random(2, 4, 4, 4), random(2, 4, 4, 4, seed=1)
    assert torch.equal(classifier_free_guidance(u, c, 0.0), u)
    torch.testing.assert_close(classifier_free_guidance(u, c, 1.0), c)
    torch.testing.assert_close(classifier_free_guidance(u, c, 7.5), 7.5 * c - 6.5 * u)


def test_csd_is_the_guidance_term_alone() -> None:
    found = known("csd")
    torch.testing.assert_close(gradient(found), WEIGHT * 7.5 * (found["conditional"] - found["unconditional"]))


def test_nfsd_is_delta_d_plus_s_delta_c() -> None:
    """Katzir et al. 2023: delta_D = eps_u where t is small, else eps_u - eps_bad; delta_C = eps_c - eps_u."""
    found = known("nfsd", scale=3.0)
    u, bad = found.by_text["unconditional"], found["low_quality"]
    delta_d = torch.where(found.t < 0.2, u, u - bad)
    torch.testing.assert_close(gradient(found), WEIGHT * (delta_d + 3 * (found["conditional"] - u)))


def test_nfsd_without_flaws_is_csd_at_high_noise() -> None:
    csd = known("csd", clean=(False, False, False))
    flawless = known("nfsd", clean=(False, False, False), low_quality=csd["unconditional"])
    assert torch.equal(gradient(flawless), gradient(csd))


def test_ism_with_no_interval_is_csd() -> None:
    """x_s = x_t: the last prediction of the inversion is the unconditional one at t."""
    csd = known("csd")
    assert torch.equal(gradient(known("ism", of_inversion=csd["unconditional"])), gradient(csd))


@pytest.mark.parametrize(
    ("read", "remedy"),
    [
        (lambda p: p["unconditional"], r"p\['unconditional'\] undeclared; add uses=\('unconditional',\)"),
        (lambda p: p["ugly"], r"p\['ugly'\] undeclared; add texts=\{'ugly': ...\}; it may read conditional to its"),
        (lambda p: p.estimate, "p.estimate undeclared; add trains_estimator=True"),
        (lambda p: p.previous, "p.previous undeclared; add inverts=True"),
    ],
)
def test_a_loss_reads_only_what_it_declares(read, remedy: str) -> None:
    """Also where it happens to be there: at another guidance scale it might not."""
    with pytest.raises(LookupError, match=rf"loss 'sds' reads {remedy}"):
        read(known("sds"))


def test_a_declaration_that_contradicts_itself() -> None:
    with pytest.raises(ValueError, match="loss 'toy': uses plain; allowed: conditional, unconditional"):
        distillation_loss("toy", uses=("plain",))(lambda p, config: p.noise)
    with pytest.raises(ValueError, match="texts: conditional are names of the prompt's own"):
        distillation_loss("toy", texts={"conditional": "a"})(lambda p, config: p.noise)
    with pytest.raises(ValueError, match=r"loss 'csd': already declared by guidance\.losses\.csd; rename one"):
        distillation_loss("csd")(lambda p, config: p.noise)
    assert "toy" not in LOSSES and LOSSES["csd"].uses == ("unconditional",)


def test_the_clip_loss_is_minus_the_cosine() -> None:
    image, text, negative = (random(5, 16, seed=seed) for seed in range(3))
    units = [torch.nn.functional.normalize(x, dim=-1) for x in (image, text, negative)]
    nothing = torch.zeros(5, 16)
    expected = -torch.cosine_similarity(image, text)
    torch.testing.assert_close(clip(units[0], units[1], nothing), expected)
    torch.testing.assert_close(clip(*units), expected + torch.cosine_similarity(image, negative))


def test_as_loss_has_exactly_the_gradient() -> None:
    """Also where latents are so large that a squared distance would lose the gradient's digits."""
    latents = (1e4 * random(4, 4, 8, 8)).requires_grad_()
    gradient = 1e-3 * random(4, 4, 8, 8, seed=1)
    loss = gradients.as_loss(latents, gradient)
    loss.backward()
    assert torch.equal(latents.grad, gradient / 4)
    torch.testing.assert_close(loss.detach(), gradient.square().sum() / 8)


def test_clipping_shrinks_only_what_is_too_large() -> None:
    gradient = torch.stack([10 * random(4, 8, 8), 0.1 * random(4, 8, 8, seed=1), torch.zeros(4, 8, 8)])
    clipped = gradients.limit_rms(gradient, 1.0)
    torch.testing.assert_close(gradients.rms(clipped)[0], torch.tensor(1.0))
    torch.testing.assert_close(clipped[0] / gradients.rms(clipped)[0], gradient[0] / gradients.rms(gradient)[0])
    assert torch.equal(clipped[1:], gradient[1:])
    assert gradients.limit_rms(gradient, None) is gradient


@pytest.mark.parametrize("kind", ["velocity", "epsilon"])
def test_the_estimator_loss_means_the_same_for_epsilon_and_v_networks(kind: str) -> None:
    """Two networks that say the same, one in eps and one in v, have the same loss and gradients alike."""
    x_0, noise = random(6, 4, 4, 4).double(), random(6, 4, 4, 4, seed=1).double()
    sigma = torch.linspace(0.1, 0.99, 6, dtype=torch.float64).view(-1, 1, 1, 1)
    alpha = (1 - sigma.square()).sqrt()
    x_t = alpha * x_0 + sigma * noise
    epsilon = noise + 0.1 * random(6, 4, 4, 4, seed=2)
    v = (epsilon - sigma * x_t) / alpha  # alpha epsilon - sigma x_0 with the x_0 that epsilon implies
    said_in_epsilon = gradients.estimator_loss(Prediction(epsilon, "epsilon", x_t, alpha, sigma), x_0, noise, kind)
    said_in_v = gradients.estimator_loss(Prediction(v, "v", x_t, alpha, sigma), x_0, noise, kind)
    torch.testing.assert_close(said_in_epsilon, said_in_v)
    direct = (v - (alpha * noise - sigma * x_0)) if kind == "velocity" else epsilon - noise
    torch.testing.assert_close(said_in_v, direct.square().mean())


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
        # Draws are a batch and particles are channels of latents of one pixel.
        pair, weight = (
            (noise_pred[..., None, None], baseline[..., None, None]),
            schedule.weight(t).expand(draws, 1, 1, 1),
        )
        gradient = gradients.distillation_gradient(*pair, weight)
        particles = particles - 0.1 * gradient.mean(0).flatten()
    return particles


def spread_of_modes(particles: torch.Tensor) -> float:
    groups = [particles[particles < 0], particles[particles >= 0]]
    assert all(len(group) > PARTICLES // 8 for group in groups), "a mode was lost"
    return sum(group.std().item() * len(group) for group in groups) / PARTICLES


def test_sds_collapses_modes_and_vsd_keeps_them() -> None:
    """Claim 3."""
    assert spread_of_modes(distil("sds")) < 0.1
    assert 0.27 < spread_of_modes(distil("vsd")) < 0.34
