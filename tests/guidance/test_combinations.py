"""Every loss with Perp-Neg, a negative prompt and prompt debiasing, through whole steps on tiny random priors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from guidance import score_distillation
from guidance.building import build_guidance
from guidance.classifier_free import classifier_free_guidance
from guidance.config import (
    DebiasingConfig,
    EstimatorConfig,
    GuidanceConfig,
    InversionConfig,
    NfsdConfig,
    PerpNegConfig,
)
from guidance.frozen_model import TextEmbeddings
from guidance.gradients import as_loss
from guidance.inversion import Inversion
from guidance.prior import DiffusionPrior
from guidance.prompts import PromptEmbeddings, embed_prompt
from guidance.registry import LOSSES, Predictions, distillation_loss
from renderers.cameras import Cameras
from tests.guidance.steps import LATENT_LOSSES, TWO_KINDS, config_of, draws, latents_of, noise_pred, seeded, step

AVOID = PerpNegConfig(front=1.0, side=0.5)


@pytest.mark.parametrize("prior", ["epsilon"], indirect=True)
@pytest.mark.parametrize("inversion_scale", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("loss", LATENT_LOSSES)
def test_a_negative_prompt_without_guidance(prior, cameras, loss: str, inversion_scale: float) -> None:
    """At scale 1 it changes the gradient where the configuration says that it is read, and nowhere else."""
    config = config_of(loss, guidance_scale=1.0)
    config = replace(config, inversion=replace(config.inversion, guidance_scale=inversion_scale))
    plain, pushed = (step(prior, cameras, config, negative=text).gradient for text in ("", "a blue mug"))
    assert torch.equal(plain, pushed) != config.reads_negative


@TWO_KINDS
@pytest.mark.parametrize("loss", LATENT_LOSSES)
def test_all_go_together(prior, cameras, loss: str) -> None:
    """Each addition changes what it is meant to change, and all of them leave a finite gradient."""
    negative, debiasing = {"negative": "a blue mug"}, {"debiasing": DebiasingConfig(back=("red",))}
    plain = step(prior, cameras, config_of(loss)).gradient
    avoiding = step(prior, cameras, config_of(loss, perp_neg=AVOID)).gradient
    debiased = step(prior, cameras, config_of(loss), **debiasing).gradient
    pushed = step(prior, cameras, config_of(loss), **negative).gradient
    latents = latents_of(prior, cameras).requires_grad_()
    everything = step(prior, cameras, config_of(loss, perp_neg=AVOID), latents, **negative, **debiasing).gradient
    as_loss(latents, everything).backward()
    for gradient in (plain, avoiding, debiased, pushed, everything, latents.grad):
        assert gradient.shape == latents.shape and gradient.isfinite().all() and gradient.abs().max() > 0
    same = {
        name: [torch.equal(a, b) for a, b in zip(plain, other, strict=True)]
        for name, other in {"avoiding": avoiding, "debiased": debiased, "pushed": pushed}.items()
    }
    assert not any(same["pushed"])
    torch.testing.assert_close(debiased[:2], plain[:2], rtol=1e-4, atol=1e-5)  # front and side
    assert not torch.allclose(debiased[2], plain[2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(avoiding[2], plain[2], rtol=1e-4, atol=1e-5)  # the back is kept from the front


@pytest.mark.parametrize(
    ("loss", "perp_neg", "rows"),
    [
        ("sds", AVOID, [12]),
        ("csd", AVOID, [12]),
        ("nfsd", PerpNegConfig(), [9]),
        ("nfsd", AVOID, [15]),
        ("vsd", AVOID, [12, 3]),
        ("sdi", AVOID, [6, 6, 12]),
    ],
)
def test_all_texts_share_one_call(epsilon_prior, cameras, monkeypatch, loss, perp_neg, rows) -> None:
    """Unconditional, conditional, a text of flaws, two other views; inversion adds its steps, VSD its estimate."""
    seen, run_network = [], epsilon_prior.run_network

    def counted(network, x_t, t, text):
        seen.append(len(x_t))
        return run_network(network, x_t, t, text)

    monkeypatch.setattr(epsilon_prior, "run_network", counted)
    step(epsilon_prior, cameras, config_of(loss, perp_neg=perp_neg))
    assert seen == rows


@TWO_KINDS
def test_sds_is_what_it_always_was(prior, prompts, cameras) -> None:
    """To the last bit: noise, one call for the pair, guidance, w(t) (eps - noise)."""
    latents = latents_of(prior, cameras)
    found = step(prior, cameras, GuidanceConfig(loss="sds", guidance_scale=20.0))
    generator = seeded()
    t, noise = draws(prior, latents, generator)
    x_t = prior.schedule.add_noise(latents, noise, t)
    texts = prompts.for_cameras(cameras)
    with torch.no_grad():
        pair = TextEmbeddings.concatenate([texts.unconditional, texts.conditional])
        u, c = prior.run_network(prior.network, torch.cat([x_t, x_t]), torch.cat([t, t]), pair).chunk(2)
        guided = prior.as_prediction(classifier_free_guidance(u, c, 20.0), x_t, t)
        assert torch.equal(found.gradient, prior.schedule.weight(t) * (guided.epsilon - noise))


@TWO_KINDS
def test_sdi_with_random_noise_is_sds(prior, cameras, monkeypatch) -> None:
    """In place of the inversion: the x_t that SDS would have drawn."""
    latents = latents_of(prior, cameras)
    sds = step(prior, cameras, GuidanceConfig(loss="sds"))
    t, noise = draws(prior, latents, seeded())
    inverted = step(prior, cameras, config_of("sdi"))
    assert not torch.allclose(inverted.x_t, sds.x_t, atol=0.1)
    drawn = Inversion(prior.schedule.add_noise(latents, noise, t), noise)
    monkeypatch.setattr(score_distillation, "invert", lambda *_: drawn)
    sdi = step(prior, cameras, config_of("sdi"))
    torch.testing.assert_close(sdi.gradient, sds.gradient, rtol=1e-3, atol=1e-4)


@TWO_KINDS
def test_sdi_infers_the_noise_that_makes_x_t(prior, cameras) -> None:
    """w (eps - kappa) with x_t = alpha x_0 + sigma kappa, where the inversion reads the text at its own scale."""
    latents, config = latents_of(prior, cameras), config_of("sdi")
    found = step(prior, cameras, config)
    texts = texts_of(prior, cameras)
    with torch.no_grad():
        x, clean, level = latents, latents, torch.zeros_like(found.t)
        for following in (found.t // 2, found.t):
            u, c = (prior.predict(x, level, text) for text in (texts.unconditional, texts.conditional))
            guided = c.with_output(classifier_free_guidance(u.output, c.output, -1.0))
            x = prior.schedule.add_noise(clean if x is latents else guided.x_0, guided.epsilon, following)
            level = following
    torch.testing.assert_close(found.x_t, x, rtol=1e-3, atol=1e-4)
    alpha, sigma, weight = (f(found.t) for f in (prior.schedule.alpha, prior.schedule.sigma, prior.schedule.weight))
    guided = guided_noise(prior, x, found.t, texts, config.guidance_scale)
    expected = weight * (guided - (x - alpha * latents) / sigma)
    torch.testing.assert_close(found.gradient, expected, rtol=1e-3, atol=1e-3)


@TWO_KINDS
def test_ism_compares_with_the_unconditional_score_an_interval_before(prior, cameras) -> None:
    inversion = InversionConfig(steps=2, interval=0.05)
    found = step(prior, cameras, GuidanceConfig(loss="ism", inversion=inversion))
    latents, texts, schedule = latents_of(prior, cameras), texts_of(prior, cameras), prior.schedule
    s = (found.t - 50).clamp(min=0)
    with torch.no_grad():
        first = noise_pred(prior, latents, torch.zeros_like(s), texts.unconditional)
        at_s = prior.predict(schedule.add_noise(latents, first, s), s, texts.unconditional)
        x_t = schedule.add_noise(at_s.x_0, at_s.epsilon, found.t)
    torch.testing.assert_close(found.x_t, x_t, rtol=1e-4, atol=1e-4)
    guided = guided_noise(prior, x_t, found.t, texts, 7.5)
    torch.testing.assert_close(found.gradient, schedule.weight(found.t) * (guided - at_s.epsilon), rtol=1e-3, atol=1e-3)


@TWO_KINDS
def test_ism_without_an_interval_is_csd_at_the_inverted_latents(prior, cameras) -> None:
    inversion = InversionConfig(steps=3, interval=1e-6)
    found = step(prior, cameras, GuidanceConfig(loss="ism", guidance_scale=3.0, inversion=inversion))
    texts, x_t, t = texts_of(prior, cameras), found.x_t, found.t
    with torch.no_grad():
        u, c = (noise_pred(prior, x_t, t, text) for text in (texts.unconditional, texts.conditional))
    torch.testing.assert_close(found.gradient, prior.schedule.weight(t) * 3 * (c - u), rtol=1e-3, atol=1e-3)


@TWO_KINDS
def test_nfsd_changes_at_its_threshold(prior, cameras) -> None:
    """delta_D + s delta_C, with the noise level as a share of the schedule."""
    latents = latents_of(prior, cameras)
    t, _ = draws(prior, latents, seeded())
    threshold = t.float().sort().values[1:].mean().item() / len(prior.schedule)  # one or two of three lie below
    flaws = NfsdConfig("a blue chair", threshold)
    found = step(prior, cameras, GuidanceConfig(loss="nfsd", guidance_scale=3.0, nfsd=flaws))
    x_t, texts = found.x_t, texts_of(prior, cameras)
    bad = prior.encode_text(["a blue chair"]).expand(len(cameras))
    with torch.no_grad():
        u, c, bad = (noise_pred(prior, x_t, t, text) for text in (texts.unconditional, texts.conditional, bad))
    low = (t < threshold * len(prior.schedule)).view(-1, 1, 1, 1)
    assert low.any() and not low.all()
    expected = prior.schedule.weight(t) * (u - torch.where(low, torch.zeros_like(bad), bad) + 3 * (c - u))
    torch.testing.assert_close(found.gradient, expected, rtol=1e-3, atol=1e-3)


def texts_of(prior: DiffusionPrior, cameras: Cameras):
    prompts: PromptEmbeddings = embed_prompt(prior, "a red mug")
    return prompts.for_cameras(cameras)


@torch.no_grad()
def guided_noise(prior: DiffusionPrior, x_t, t, texts, scale: float) -> torch.Tensor:
    u, c = (noise_pred(prior, x_t, t, text) for text in (texts.unconditional, texts.conditional))
    return classifier_free_guidance(u, c, scale)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"loss": "clip", "perp_neg": AVOID}, "perp_neg: keeps predictions of noise away .* 'clip' has none"),
        ({"loss": "clip", "weighting": "x0"}, "weighting.* the loss 'clip' has none"),
        ({"loss": "clip", "rescale": 0.5}, "rescale.* the loss 'clip' has none"),
        ({"loss": "clip", "shared_pass": True}, "shared_pass: the loss 'clip' trains no estimator"),
        ({"loss": "sdss"}, "must be one of vsd, sds, csd, nfsd, ism, sdi, clip"),
    ],
)
def test_what_does_not_go_together_is_refused(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GuidanceConfig(**config)
    with pytest.raises(ValueError, match=r"nearly_clean\n.* less than or equal to 1"):
        NfsdConfig(nearly_clean=2.0)


def test_a_diffusion_prior_is_no_image_text_model(epsilon_prior) -> None:
    with pytest.raises(ValueError, match=r"loss: 'clip' needs an image-text model .* received StableDiffusionPrior"):
        build_guidance(epsilon_prior, GuidanceConfig(loss="clip"), EstimatorConfig(), seeded())


def test_scale_one_needs_no_pair_but_the_avoided_views_do(epsilon_prior, cameras) -> None:
    plain = step(epsilon_prior, cameras, GuidanceConfig(loss="sds", guidance_scale=1.0))
    avoiding = replace(GuidanceConfig(loss="sds", guidance_scale=1.0), perp_neg=AVOID)
    avoided = step(epsilon_prior, cameras, avoiding)
    assert not torch.allclose(plain.gradient[2], avoided.gradient[2], rtol=1e-4, atol=1e-5)


@pytest.fixture
def toy_loss():
    """A loss from outside of the package: one function with its declaration."""

    @distillation_loss(
        "toy", uses=("unconditional",), texts={"flaws": "a blue chair", "other": lambda config: config.nfsd.low_quality}
    )
    def toy(p: Predictions, config: GuidanceConfig) -> torch.Tensor:
        return p["unconditional"] + 2 * p["flaws"] - p["other"]

    yield "toy"
    del LOSSES["toy"]


def test_a_loss_is_one_declared_function(epsilon_prior, cameras, toy_loss) -> None:
    """The allowed name, the texts, the rows of the network and what the negative prompt does follow from it."""
    config = GuidanceConfig(loss=toy_loss, guidance_scale=1.0, nfsd=NfsdConfig("a red chair"))
    assert config.reads_negative and not config.trains_estimator and config.reads == "latents"
    assert config.further_texts == {"flaws": "a blue chair", "other": "a red chair"}
    found = step(epsilon_prior, cameras, config)
    texts = texts_of(epsilon_prior, cameras)
    embedded = [epsilon_prior.encode_text([text]).expand(len(cameras)) for text in config.further_texts.values()]
    u, c, flaws, other = (
        noise_pred(epsilon_prior, found.x_t, found.t, text)
        for text in (texts.unconditional, texts.conditional, *embedded)
    )
    expected = epsilon_prior.schedule.weight(found.t) * (c - (u + 2 * flaws - other))
    torch.testing.assert_close(found.gradient, expected, rtol=1e-4, atol=1e-4)
    assert build_guidance(epsilon_prior, config, EstimatorConfig(), seeded()).estimator is None
