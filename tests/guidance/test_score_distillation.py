"""One step of score distillation, on tiny random priors of both kinds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from guidance import gradients
from guidance.classifier_free import rescale
from guidance.config import GuidanceConfig
from guidance.prompts import embed_prompt
from guidance.score_distillation import ScoreDistillation, draw_noise
from tests.guidance.steps import RANGE, TWO_KINDS, draws, guidance_of, latents_of, noise_pred, seeded
from tests.rounding import assert_equal_to_rounding


def test_vsd_begins_as_the_guidance_term(prior, prompts, cameras) -> None:
    """Claim 2: w(t) (s - 1) (eps_c - eps_u), when both scores read the same text."""
    plain = replace(prompts, views=prompts.plain[torch.zeros(5, dtype=torch.int64)])
    latents = latents_of(prior, cameras)
    guidance = guidance_of(prior, guidance_scale=7.5)
    output = guidance.gradient(latents, plain, cameras, RANGE, seeded())
    t, noise = draws(prior, latents, seeded())
    x_t = prior.schedule.add_noise(latents, noise, t)
    texts = plain.for_cameras(cameras)
    conditional, unconditional = (noise_pred(prior, x_t, t, text) for text in (texts.plain, texts.unconditional))
    expected = prior.schedule.weight(t) * 6.5 * (conditional - unconditional)
    torch.testing.assert_close(output.gradient, expected, rtol=1e-4, atol=1e-5)
    assert expected.abs().max() > 1e-3


def test_vsd_begins_at_exactly_zero_without_guidance(prior, prompts, cameras) -> None:
    """Claim 2 at s = 1."""
    plain = replace(prompts, views=prompts.plain[torch.zeros(5, dtype=torch.int64)])
    guidance = guidance_of(prior, guidance_scale=1.0)
    output = guidance.gradient(latents_of(prior, cameras), plain, cameras, RANGE, seeded())
    assert output.gradient.abs().max() == 0


@TWO_KINDS
def test_vsd_with_the_noise_as_estimate_is_sds(prior, prompts, cameras, monkeypatch) -> None:
    """Claim 1, through the whole step: an estimator that knows the noise."""
    latents = latents_of(prior, cameras)
    vsd, sds = guidance_of(prior, guidance_scale=20.0), guidance_of(prior, loss="sds", guidance_scale=20.0)
    _, noise = draws(prior, latents, seeded())

    def knows(prior, x_t, t, text, c2w):
        return replace(prior.as_prediction(noise, x_t, t), prediction_type="epsilon")

    monkeypatch.setattr(vsd.estimator, "predict", knows)
    first = vsd.gradient(latents, prompts, cameras, RANGE, seeded())
    second = sds.gradient(latents, prompts, cameras, RANGE, seeded())
    assert torch.equal(first.gradient, second.gradient)


@TWO_KINDS
def test_csd_is_the_guidance_term_alone(prior, prompts, cameras) -> None:
    latents = latents_of(prior, cameras)
    output = guidance_of(prior, loss="csd", guidance_scale=3.0).gradient(latents, prompts, cameras, RANGE, seeded())
    t, noise = draws(prior, latents, seeded())
    x_t = prior.schedule.add_noise(latents, noise, t)
    texts = prompts.for_cameras(cameras)
    difference = noise_pred(prior, x_t, t, texts.conditional) - noise_pred(prior, x_t, t, texts.unconditional)
    expected = prior.schedule.weight(t) * 3 * difference
    torch.testing.assert_close(output.gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_csd_has_its_baseline_at_every_scale(epsilon_prior, cameras, scale: float) -> None:
    prompts = embed_prompt(epsilon_prior, "a red mug")
    guidance = guidance_of(epsilon_prior, loss="csd", guidance_scale=scale)
    output = guidance.gradient(latents_of(epsilon_prior, cameras), prompts, cameras, RANGE, seeded())
    assert (output.gradient.abs().max() > 0) == (scale > 0)


@TWO_KINDS
def test_the_scene_step_touches_no_weight_and_the_estimator_step_no_scene(prior, prompts, cameras) -> None:
    guidance = guidance_of(prior)
    latents = latents_of(prior, cameras).requires_grad_()
    output = guidance.gradient(latents, prompts, cameras, RANGE, seeded())
    assert not output.gradient.requires_grad
    gradients.as_loss(latents, output.gradient).backward()
    assert torch.equal(latents.grad, output.gradient / len(cameras))
    assert all(p.grad is None for p in guidance.parameters())
    latents.grad = None
    guidance.estimator_loss(latents, prompts, cameras, seeded()).backward()
    assert latents.grad is None
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in guidance.parameters())
    assert all(p.grad is None for p in prior.network.parameters())


@TWO_KINDS
def test_the_same_seed_gives_the_same_step_and_the_global_state_does_not_matter(prior, prompts, cameras) -> None:
    guidance, latents = guidance_of(prior), latents_of(prior, cameras)
    torch.manual_seed(1)
    first = guidance.gradient(latents, prompts, cameras, RANGE, seeded()).gradient
    loss = guidance.estimator_loss(latents, prompts, cameras, seeded())
    torch.manual_seed(2)
    assert torch.equal(first, guidance.gradient(latents, prompts, cameras, RANGE, seeded()).gradient)
    assert torch.equal(loss, guidance.estimator_loss(latents, prompts, cameras, seeded()))
    assert not torch.equal(first, guidance.gradient(latents, prompts, cameras, RANGE, seeded(4)).gradient)


@TWO_KINDS
def test_a_shared_pass_gives_the_same_score_and_the_same_training_gradient(prior, prompts, cameras) -> None:
    """As a separate pass at the same noise levels and noise, with every camera shown."""
    shared, separate = guidance_of(prior, shared_pass=True), guidance_of(prior)
    latents = latents_of(prior, cameras)
    one = shared.gradient(latents, prompts, cameras, RANGE, seeded())
    two = separate.gradient(latents, prompts, cameras, RANGE, seeded())
    assert torch.equal(one.gradient, two.gradient) and not one.gradient.requires_grad
    assert two.estimator_loss is None
    t, noise = draws(prior, latents, seeded())
    x_t = prior.schedule.add_noise(latents, noise, t)
    prediction = separate.estimator.predict(prior, x_t, t, prompts.for_cameras(cameras).plain, cameras.c2w)
    expected = gradients.estimator_loss(prediction, latents, noise)
    torch.testing.assert_close(one.estimator_loss, expected)
    one.estimator_loss.backward()
    expected.backward()
    for (name, a), (_, b) in zip(shared.named_parameters(), separate.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


@TWO_KINDS
@pytest.mark.parametrize(
    ("config", "rows"),
    [
        ({"loss": "sds"}, [6]),  # the classifier-free pair in one call
        ({"loss": "vsd", "guidance_scale": 1.0}, [3, 3]),  # no pair where it would cancel
        ({"loss": "vsd"}, [6, 3]),
        ({"loss": "vsd", "shared_pass": True}, [6, 3]),
    ],
)
def test_the_network_runs_no_more_than_it_must(prior, prompts, cameras, monkeypatch, config, rows) -> None:
    guidance, seen = guidance_of(prior, **config), []
    run_network = prior.run_network

    def counted(network, x_t, t, text):
        seen.append(len(x_t))
        return run_network(network, x_t, t, text)

    monkeypatch.setattr(prior, "run_network", counted)
    guidance.gradient(latents_of(prior, cameras), prompts, cameras, RANGE, seeded())
    assert seen == rows


@pytest.mark.parametrize("prior", ["epsilon", "flux"], indirect=True)  # the slowest test of this file
def test_training_the_estimator_lowers_its_loss_and_checkpoints_hold_only_it(prior, prompts, cameras) -> None:
    guidance, latents = guidance_of(prior), latents_of(prior, cameras)
    optimizer = torch.optim.AdamW(guidance.parameters(), lr=1e-2)

    def mean_loss() -> float:
        with torch.no_grad():
            values = [guidance.estimator_loss(latents, prompts, cameras, seeded(100 + i)) for i in range(10)]
        return torch.stack(values).mean().item()

    before = mean_loss()
    for step in range(20):
        optimizer.zero_grad()
        guidance.estimator_loss(latents, prompts, cameras, seeded(step)).backward()
        optimizer.step()
    assert mean_loss() < 0.98 * before
    assert all(key.startswith("estimator.") for key in guidance.state_dict())


@pytest.mark.parametrize("prior", ["epsilon", "flux"], indirect=True)
def test_the_estimator_learns_at_all_levels_from_the_plain_prompt_and_sometimes_without_camera(
    prior, prompts, cameras, monkeypatch
) -> None:
    """Algorithm 1, step 3: t ~ U(0, 1), y without view words, and cameras hidden with their probability."""
    guidance, seen = guidance_of(prior), []
    predict = guidance.estimator.predict

    def spy(model, x_t, t, text, c2w, keep_camera):
        prediction = predict(model, x_t, t, text, c2w, keep_camera)
        seen.append((x_t, t, text, keep_camera, prediction))
        return prediction

    monkeypatch.setattr(guidance.estimator, "predict", spy)
    latents, generator, again = latents_of(prior, cameras), seeded(), seeded()
    with torch.no_grad():
        for _ in range(60):
            loss = guidance.estimator_loss(latents, prompts, cameras, generator)
            x_t, t, text, keep, prediction = seen[-1]
            assert torch.equal(t, prior.schedule.sample_t(len(latents), (0.0, 1.0), again, "cpu"))
            noise = draw_noise(latents, again)
            assert torch.equal(keep, guidance.estimator.draw_keep_camera(len(latents), again))
            assert torch.equal(x_t, prior.schedule.add_noise(latents, noise, t))
            assert torch.equal(text.tokens, prompts.for_cameras(cameras).plain.tokens)
            assert torch.equal(loss, gradients.estimator_loss(prediction, latents, noise, "velocity"))
    levels = torch.cat([t for _, t, *_ in seen]) / len(prior.schedule)
    hidden = 1 - torch.cat([keep for *_, keep, _ in seen]).float().mean()
    assert levels.min() < 0.05 and levels.max() > 0.95 and 0.4 < levels.mean() < 0.6
    assert 0.03 < hidden < 0.2  # camera_dropout is 0.1


def test_clipping_bounds_what_is_handed_out_and_not_what_is_reported(epsilon_prior, cameras) -> None:
    prompts = embed_prompt(epsilon_prior, "a red mug")
    guidance = guidance_of(epsilon_prior, loss="sds", guidance_scale=100.0, max_gradient_rms=1e-3)
    output = guidance.gradient(latents_of(epsilon_prior, cameras), prompts, cameras, RANGE, seeded())
    assert_equal_to_rounding(
        gradients.rms(output.gradient), torch.full((3,), 1e-3), latents_of(epsilon_prior, cameras)[0].numel()
    )
    assert output.figures["grad/latents"] > 1e-3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"loss": "vds"}, "loss\n.* must be one of vsd, sds, csd"),
        ({"guidance_scale": -1.0}, "guidance_scale\n.* greater than or equal to 0"),
        ({"guidance_scale": float("nan")}, "guidance_scale\n.* finite number"),
        ({"max_gradient_rms": 0.0}, "max_gradient_rms\n.* greater than 0"),
        ({"loss": "sds", "shared_pass": True}, "shared_pass: the loss 'sds' trains no estimator"),
    ],
)
def test_bad_configs(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GuidanceConfig(**config)


def test_an_inverted_noise_range_and_a_missing_estimator(epsilon_prior, cameras) -> None:
    prompts = embed_prompt(epsilon_prior, "a red mug")
    guidance = guidance_of(epsilon_prior, loss="sds")
    with pytest.raises(ValueError, match=r"t_range: \[0\.98, 0\.02\] is no range"):
        guidance.gradient(latents_of(epsilon_prior, cameras), prompts, cameras, (0.98, 0.02), seeded())
    with pytest.raises(ValueError, match="the loss 'vsd' needs LoraEstimator, received None"):
        ScoreDistillation(epsilon_prior, None, GuidanceConfig())


@TWO_KINDS
def test_sds_weighted_by_x0_pulls_towards_the_predicted_x0(prior, prompts, cameras) -> None:
    """MVDream's loss, | x_0 - x0_hat |^2 / 2 with a fixed x0_hat, whose spread is brought back half-way."""
    latents = latents_of(prior, cameras)
    config = {"loss": "sds", "guidance_scale": 50.0, "weighting": "x0"}
    texts, (t, noise) = prompts.for_cameras(cameras), draws(prior, latents, seeded())
    x_t = prior.schedule.add_noise(latents, noise, t)
    with torch.no_grad():
        c, u = (prior.predict(x_t, t, text).x_0 for text in (texts.conditional, texts.unconditional))
    guided = u + 50 * (c - u)
    spread = c.flatten(1).std(dim=1) / guided.flatten(1).std(dim=1)
    halfway = guided * (0.5 * spread + 0.5).view(-1, 1, 1, 1)
    for share, target in ((0.0, guided), (0.5, halfway)):
        found = guidance_of(prior, **config, rescale=share).gradient(latents, prompts, cameras, RANGE, seeded())
        torch.testing.assert_close(found.gradient, latents - target, rtol=1e-3, atol=1e-3 * float(target.abs().max()))


def test_a_spread_is_that_of_all_views_of_an_object(epsilon_prior) -> None:
    x_t, t = torch.randn(4, *epsilon_prior.latent_shape), torch.full((4,), 300)
    narrow = epsilon_prior.as_prediction(torch.randn_like(x_t), x_t, t)
    wide = narrow.with_output(narrow.output * 3)
    found = rescale(wide, narrow, 1.0, together=2)
    rescaled = narrow.with_output(found).x_0
    for group in (slice(0, 2), slice(2, 4)):
        torch.testing.assert_close(rescaled[group].std(), narrow.x_0[group].std(), rtol=1e-4, atol=0)
        torch.testing.assert_close(*(rescaled[group][k] / wide.x_0[group][k] for k in range(2)), rtol=1e-2, atol=0)


def test_x0_weighting_without_signal_is_an_error(prior, prompts, cameras) -> None:
    guidance = guidance_of(prior, loss="sds", weighting="x0")
    guidance._levels_with_signal = len(prior.schedule) // 2
    with pytest.raises(ValueError, match=r"alpha, which is 0 above t = 0.500 .* noise.t_max is 0.98"):
        guidance.gradient(latents_of(prior, cameras), prompts, cameras, RANGE, seeded())
