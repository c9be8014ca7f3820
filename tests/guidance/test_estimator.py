"""eps_phi starts as eps_pretrain, learns, and leaves eps_pretrain alone."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from guidance import gradients
from guidance.config import EstimatorConfig
from guidance.estimator import LoraEstimator
from guidance.loading import load_prior
from tests.guidance.steps import TWO_KINDS


def inputs(prior, count: int = 3) -> tuple:
    g = torch.Generator().manual_seed(1)
    x_t = torch.randn(count, *prior.latent_shape, generator=g)
    return x_t, torch.tensor([5, 500, 995])[:count], prior.encode_text(["a red mug", "a blue chair", ""][:count])


def estimator_of(prior, **config) -> LoraEstimator:
    return LoraEstimator(prior, EstimatorConfig(**config), torch.Generator().manual_seed(0))


def train(prior, estimator: LoraEstimator, cameras, steps: int = 5) -> list[float]:
    """A few updates on fixed data, with a rate high enough to change everything."""
    x_t, t, text = inputs(prior)
    g = torch.Generator().manual_seed(2)
    x_0 = torch.randn(x_t.shape, generator=g)
    noise = torch.randn(x_t.shape, generator=g)
    noisy = prior.schedule.add_noise(x_0, noise, t)
    optimizer = torch.optim.AdamW(estimator.parameters(), lr=1e-2)
    history = []
    for _ in range(steps):
        prediction = estimator.predict(prior, noisy, t, text, cameras.c2w)
        loss = gradients.estimator_loss(prediction, x_0, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_the_start_it_is_the_frozen_network_to_the_last_bit(folders, prior, cameras, dtype) -> None:
    prior = load_prior(prior.files.place, dtype=dtype)
    estimator = estimator_of(prior)
    x_t, t, text = inputs(prior)
    frozen, own = prior.predict(x_t, t, text), estimator.predict(prior, x_t, t, text, cameras.c2w)
    assert torch.equal(frozen.output, own.output)
    assert torch.equal(frozen.epsilon, own.epsilon)
    assert {p.dtype for p in estimator.parameters()} == {torch.float32}


def test_the_frozen_score_is_the_plain_pretrained_network_always(prior, cameras) -> None:
    """Before and after the adapters were attached, and after they and the camera embedding were trained."""
    subfolder = "unet" if (prior.files.place / "unet").is_dir() else "transformer"
    plain = type(prior.network).from_pretrained(prior.files.place, subfolder=subfolder)
    if subfolder == "unet":
        plain.set_attn_processor(AttnProcessor())
    x_t, t, text = inputs(prior)
    with torch.no_grad():
        expected = prior.run_network(plain, x_t, t, text)
    assert torch.equal(prior.predict(x_t, t, text).output, expected)
    estimator = estimator_of(prior)
    assert torch.equal(prior.predict(x_t, t, text).output, expected)
    history = train(prior, estimator, cameras)
    assert history[-1] < history[0]
    assert not torch.equal(estimator.predict(prior, x_t, t, text, cameras.c2w).output, expected)
    assert torch.equal(prior.predict(x_t, t, text).output, expected)
    for (name, before), (same, after) in zip(plain.named_parameters(), prior.network.named_parameters(), strict=True):
        assert name == same and torch.equal(before, after) and after.grad is None


def test_gradients_reach_all_that_is_trained_and_nothing_else(prior, cameras) -> None:
    estimator = estimator_of(prior)
    train(prior, estimator, cameras, steps=2)  # zero layers block the gradient of what lies before them at first
    train(prior, estimator, cameras, steps=1)
    for name, parameter in estimator.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@TWO_KINDS
def test_the_camera_counts_once_trained_and_can_be_hidden(prior, cameras) -> None:
    estimator = estimator_of(prior)
    train(prior, estimator, cameras)
    x_t, t, text = inputs(prior)
    hidden, shown = torch.zeros(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool)
    moved = cameras.c2w.flip(0)

    def output(c2w, keep=None):
        return estimator.predict(prior, x_t, t, text, c2w, keep).output

    assert not torch.equal(output(cameras.c2w)[0], output(moved)[0])
    assert torch.equal(output(cameras.c2w, hidden), output(moved, hidden))
    assert torch.equal(output(cameras.c2w, shown), output(cameras.c2w))
    only_first = torch.tensor([False, True, True])
    torch.testing.assert_close(output(cameras.c2w, only_first)[1:], output(cameras.c2w)[1:])


def test_cameras_are_hidden_as_often_as_configured(epsilon_prior) -> None:
    estimator = estimator_of(epsilon_prior, camera_dropout=0.1)
    keep = estimator.draw_keep_camera(20_000, torch.Generator().manual_seed(0))
    assert abs(keep.float().mean().item() - 0.9) < 0.01
    assert estimator_of(epsilon_prior, camera_dropout=0.0).draw_keep_camera(100, torch.Generator()).all()


@TWO_KINDS
def test_the_state_is_small_complete_and_strict(prior, cameras) -> None:
    first, second = estimator_of(prior), LoraEstimator(prior, EstimatorConfig(), torch.Generator().manual_seed(9))
    train(prior, first, cameras)
    state = first.state_dict()
    assert set(state) == {name for name, _ in first.named_parameters()}
    assert all(key.startswith(("lora.", "camera_embedding.")) for key in state)
    x_t, t, text = inputs(prior)
    expected = first.predict(prior, x_t, t, text, cameras.c2w).output
    assert not torch.equal(second.predict(prior, x_t, t, text, cameras.c2w).output, expected)
    second.load_state_dict(state)
    assert torch.equal(second.predict(prior, x_t, t, text, cameras.c2w).output, expected)
    state.popitem()
    with pytest.raises(RuntimeError, match="Missing key"):
        second.load_state_dict(state)


def test_the_weights_exist_once(prior) -> None:
    """The twin's tensors are the frozen network's own, also after a move."""
    estimator = estimator_of(prior)
    twin = {id(p) for p in estimator.twin.module.parameters()}
    assert all(id(p) in twin for p in prior.network.parameters())
    assert len(twin) == len(list(prior.network.parameters())) + len(estimator.lora)
    torch.nn.ModuleList([prior, estimator]).to(torch.float64)
    storages = {p.data_ptr() for p in estimator.twin.module.parameters()}
    assert all(p.data_ptr() in storages and p.dtype == torch.float64 for p in prior.network.parameters())


def test_the_seed_decides_the_start_and_the_global_state_does_not(epsilon_prior) -> None:
    torch.manual_seed(1)
    first = estimator_of(epsilon_prior).state_dict()
    torch.manual_seed(2)
    second = estimator_of(epsilon_prior).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@TWO_KINDS
def test_gradient_checkpointing_changes_nothing(prior, cameras) -> None:
    plain, thrifty = estimator_of(prior), estimator_of(prior, gradient_checkpointing=True)
    assert train(prior, plain, cameras, steps=3) == train(prior, thrifty, cameras, steps=3)
    for (name, a), (_, b) in zip(plain.named_parameters(), thrifty.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    assert forward_calls(prior, thrifty, cameras) > 1.5 * forward_calls(prior, plain, cameras), "nothing is recomputed"


def forward_calls(prior, estimator: LoraEstimator, cameras) -> int:
    """How often layers of the twin run in a training step."""
    calls = []
    layers = [module for module in estimator.twin.module.modules() if not list(module.children())]
    hooks = [layer.register_forward_hook(lambda *_: calls.append(None)) for layer in layers]
    train(prior, estimator, cameras, steps=1)
    for hook in hooks:
        hook.remove()
    return len(calls)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rank": 0}, "rank\n.* greater than 0"),
        ({"scale": 0.0}, "scale\n.* greater than 0"),
        ({"camera_dropout": 1.5}, "camera_dropout\n.* less than or equal to 1"),
        ({"loss": "v"}, "loss\n.* 'velocity' or 'epsilon'"),
    ],
)
def test_bad_configs(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EstimatorConfig(**config)


def test_gradients_through_fp16_do_not_vanish(folders) -> None:
    """Of a loss that is a mean over very many latents, each gradient would be below fp16's smallest number."""

    def gradients(dtype: torch.dtype, share: float) -> torch.Tensor:
        prior = load_prior(folders["epsilon"], dtype=dtype)
        estimator = LoraEstimator(prior, EstimatorConfig(), torch.Generator().manual_seed(0))
        text, c2w = prior.encode_text(["a red mug"]), torch.eye(4)[None]
        x_t = torch.randn(1, *prior.latent_shape, generator=torch.Generator().manual_seed(1))
        output = estimator.predict(prior, x_t, torch.tensor([500]), text, c2w).output
        (output.square().mean() * share).backward()
        return torch.cat([each.grad.flatten() for each in estimator.parameters() if each.grad is not None])

    exact, found = gradients(torch.float32, 1e-3), gradients(torch.float16, 1e-3)
    assert (found - exact).norm() < 0.02 * exact.norm()


def test_a_rank_above_a_layers_width_is_told(epsilon_prior) -> None:
    def remark(rank: int) -> str | None:
        return LoraEstimator(epsilon_prior, EstimatorConfig(rank=rank), torch.Generator()).remark()

    assert remark(16) is None
    assert remark(17) == (
        "estimator.rank 17 is above the width of 32 of the 32 adapted layers (the narrowest has 16 channels), whose "
        "adapters gain nothing from the rest"
    )
