"""What a step must cost, on the full-size model, and what the estimate of its memory counts."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from benchmarks import step_cost
from benchmarks.step_cost import MODELS, TERA
from guidance.config import EstimatorConfig, GuidanceConfig, InversionConfig, NfsdConfig, PerpNegConfig, TextConfig
from guidance.dry_run import META, fused_attention, on_meta, run_step
from guidance.estimator import LoraEstimator
from guidance.families.latent_diffusion import LatentDiffusionPrior
from guidance.loading import outline_prior
from guidance.memory import (
    LiveMemory,
    MemoryEstimate,
    PlannedRun,
    estimate_memory,
    estimate_run,
    preflight_line,
    size_of,
)
from guidance.prompts import embed_prompt
from guidance.score_distillation import ScoreDistillation
from tests.guidance.conftest import FAMILIES
from tests.guidance.steps import LATENT_LOSSES


@pytest.fixture(scope="module")
def stable_diffusion_2_1():
    return MODELS["sd21"].build(), step_cost.prompts_of(MODELS["sd21"])


@pytest.mark.parametrize(
    ("name", "bar"),
    [
        ("SDS", 3.9),
        ("VSD, shared pass", 5.7),
        ("VSD, separate passes", 6.5),
    ],
)
def test_a_step_costs_no_more_than_it_must(stable_diffusion_2_1, name: str, bar: float) -> None:
    """TFLOP of Stable Diffusion 2.1 at 512 pixels, one image, on meta tensors of full size."""
    prior, prompts = stable_diffusion_2_1
    (step,) = (step for step in step_cost.steps_of("sd21") if step.name == name)
    flops = step_cost.count_flops(step_cost.guidance_of(prior, step), prompts) / TERA
    assert bar - 0.1 < flops <= bar, "less means that something wasn't counted"


def test_what_is_counted_is_what_the_presets_have() -> None:
    """The table of docs/costs.md has these scales, and these rows with checkpointing."""
    for preset in MODELS:
        steps = list(step_cost.steps_of(preset))
        sds, vsd = steps[0], steps[-1]
        scales = sds.guidance.guidance_scale, vsd.guidance.guidance_scale
        assert scales == {"sd21": (100, 7.5), "sdxl": (100, 5), "sd35": (100, 4.5), "flux": (20, 1)}[preset]
        assert sds.guidance.loss == "sds"
        checkpointing = [step.estimator.gradient_checkpointing for step in steps[1:]]
        assert checkpointing == [False] * 2 + ([] if preset == "sd21" else [True] * 2)
        assert [step.guidance.shared_pass for step in steps[1:3]] == [True, False]


@pytest.mark.parametrize("prior", ["epsilon", "flux"], indirect=True)
def test_dry_and_real_steps_are_the_same_code(prior, monkeypatch) -> None:
    """The dry run calls the network as often and on as many rows, and leaves the real weights alone."""
    estimator = LoraEstimator(prior, EstimatorConfig(), torch.Generator().manual_seed(0))
    guidance = ScoreDistillation(prior, estimator, GuidanceConfig())
    prompts = embed_prompt(prior, "a red mug")
    before = [parameter.clone() for parameter in (*prior.network.parameters(), *guidance.parameters())]
    dry, rows = on_meta(guidance), []
    monkeypatch.setattr(dry.model, "run_network", counting(dry.model.run_network, rows))
    run_step(dry, prompts.to(META), views=2)
    assert rows == [4, 2, 2]  # the classifier-free pair, the estimate, its training
    for old, new in zip(before, (*prior.network.parameters(), *guidance.parameters()), strict=True):
        assert torch.equal(old, new) and new.grad is None
    assert all(parameter.is_meta and parameter.grad is not None for parameter in dry.parameters())
    assert all(parameter.is_meta and parameter.grad is None for parameter in dry.model.network.parameters())


def counting(run_network, rows: list[int]):
    def counted(network, x_t, t, text):
        rows.append(len(x_t))
        return run_network(network, x_t, t, text)

    return counted


def test_live_memory_by_hand() -> None:
    """Two layers on 1000 floats: what backward needs stays, what it doesn't need goes."""
    weight = nn.Parameter(torch.empty(1000, 1000, device=META), requires_grad=False)
    x = torch.empty(1, 1000, device=META, requires_grad=True)
    row = 4000  # bytes
    with LiveMemory() as memory:
        memory.ignore([weight, x])
        hidden = (x @ weight.T).sigmoid()  # saves its output, and the product goes
        assert memory.now == row and memory.peak == 2 * row
        with torch.no_grad():
            (hidden @ weight).exp().exp()  # leaves nothing behind
        assert memory.now == row and memory.peak == 3 * row
        view = hidden.reshape(10, 100)[2:]
        assert memory.now == row, "views share their storage"
        total = (hidden @ weight).sum()
        del hidden, view
        assert memory.now == row + 4, "autograd keeps what it needs"
        total.backward()
        del total
    assert memory.now == row, "the gradient of x alone"


def test_fused_attention_stores_no_pairs() -> None:
    query = torch.empty(1, 2, 512, 16, device=META, requires_grad=True)
    pairs = 4 * 2 * 512 * 512  # bytes
    peaks = []
    for fused in (False, True):
        with LiveMemory() as memory:
            memory.ignore([query])
            attention = nn.functional.scaled_dot_product_attention
            if fused:
                with fused_attention():
                    assert nn.functional.scaled_dot_product_attention is not attention
                    nn.functional.scaled_dot_product_attention(query, query, query).sum().backward()
            else:
                attention(query, query, query).sum().backward()
        peaks.append(memory.peak)
    assert nn.functional.scaled_dot_product_attention is attention
    assert peaks[0] > pairs > peaks[1]


def test_estimates_add_up(epsilon_prior) -> None:
    prompts = embed_prompt(epsilon_prior, "a red mug")

    def estimate(views: int = 1, loss: str = "vsd", **config) -> tuple[MemoryEstimate, ScoreDistillation]:
        estimator = None
        if loss == "vsd":
            estimator = LoraEstimator(epsilon_prior, EstimatorConfig(**config), torch.Generator().manual_seed(0))
        guidance = ScoreDistillation(epsilon_prior, estimator, GuidanceConfig(loss=loss))
        return estimate_memory(guidance, prompts, views), guidance

    found, guidance = estimate()
    parts = (epsilon_prior.network, epsilon_prior.frozen_autoencoder.module)
    assert found.weights == sum(size_of(part.parameters()) + size_of(part.buffers()) for part in parts)
    assert found.estimator == 3 * 4 * sum(p.numel() for p in guidance.parameters())
    assert found.total == found.weights + found.estimator + found.step
    assert estimate(loss="sds")[0].estimator == 0
    gradients = size_of(guidance.parameters())  # the one part of a step that more views leave as it is
    assert (estimate(views=2)[0].step - gradients) / (found.step - gradients) == pytest.approx(2, abs=0.2)
    assert estimate(gradient_checkpointing=True)[0].step <= found.step


@pytest.mark.parametrize(
    ("prior", "loss"),
    [("epsilon", loss) for loss in LATENT_LOSSES] + [(family, "vsd") for family in FAMILIES if family != "epsilon"],
    indirect=["prior"],
)
def test_every_loss_and_every_family_has_an_estimate(prior, loss: str) -> None:
    """On the meta device, with a view to avoid and with an inversion that reads texts."""
    inversion = InversionConfig(steps=2, guidance_scale=-1.0)
    config = GuidanceConfig(loss=loss, perp_neg=PerpNegConfig(front=1.6), nfsd=NfsdConfig("ugly"), inversion=inversion)
    prompts = embed_prompt(prior, "a red mug", further=config.further_texts)
    generator = torch.Generator().manual_seed(0)
    estimator = LoraEstimator(prior, EstimatorConfig(), generator) if config.trains_estimator else None
    found = estimate_memory(ScoreDistillation(prior, estimator, config), prompts)
    assert found.step > size_of([prompts.plain.tokens]) and (found.estimator > 0) == config.trains_estimator


def test_an_outline_is_the_model_without_its_numbers(prior, tmp_path) -> None:
    """For each family: the same tensors in the same formats, read from the configurations alone."""
    bare = shutil.copytree(prior.files.place, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    outlined = outline_prior(bare)

    def shapes(model: LatentDiffusionPrior) -> list[tuple]:
        encoders = [encoder for encoder in model.text_encoders if encoder is not None]
        parts = (model.network, model.frozen_autoencoder.module, *encoders)
        return [(name, p.shape, p.dtype) for part in parts for name, p in part.named_parameters()]

    assert shapes(outlined) == shapes(prior) and len(shapes(prior)) > 100
    assert all(parameter.is_meta for parameter in outlined.network.parameters())
    assert outlined.latent_shape == prior.latent_shape and outlined.traits == prior.traits


def test_a_run_is_estimated_before_its_weights_are_read(epsilon_prior, tmp_path) -> None:
    """As much as with the weights at hand."""
    prompt, config = "a red mug", GuidanceConfig()
    estimator = LoraEstimator(epsilon_prior, EstimatorConfig(), torch.Generator().manual_seed(0))
    prompts = embed_prompt(epsilon_prior, prompt, release_text_encoder=False)
    encoders = epsilon_prior.text_encoders
    known = estimate_memory(ScoreDistillation(epsilon_prior, estimator, config), prompts)
    bare = shutil.copytree(epsilon_prior.files.place, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    device, dtype = torch.device("cpu"), torch.float32
    found = estimate_run(PlannedRun(bare, device, dtype, prompt, TextConfig(), config, EstimatorConfig()))
    assert (found.weights, found.estimator, found.step) == (known.weights, known.estimator, known.step)
    assert found.text_encoders == sum(size_of(encoder.parameters()) for encoder in encoders) > 0


def test_encoding_the_prompt_may_be_what_needs_most() -> None:
    assert MemoryEstimate(weights=5, estimator=1, step=2, text_encoders=11).total == 16
    assert MemoryEstimate(weights=5, estimator=1, step=20, text_encoders=11).total == 26


def test_too_little_memory_is_told_before_a_run() -> None:
    estimate = MemoryEstimate(weights=5_000_000_000, estimator=100_000_000, step=6_000_000_000)
    assert preflight_line(estimate, 24_000_000_000) is None
    line = preflight_line(estimate, 8_000_000_000)
    assert line is not None
    assert line.startswith("guidance needs about 11.1 GB (weights 5.0, estimator 0.1, a step 6.0), this device has 8.0")
    assert "too little; " in line
    with_texts = MemoryEstimate(5_000_000_000, 0, 1_000_000_000, 11_000_000_000)
    line = preflight_line(with_texts, 12_000_000_000)
    assert line is not None and "about 16.0 GB (weights 5.0, a step 1.0; text encoders 11.0, freed before)" in line
    assert "too little for the weights" in line and "estimator" not in line.split(":")[0]


def test_pictures_between_steps_may_be_what_needs_most() -> None:
    assert MemoryEstimate(weights=5, estimator=1, step=2, pictures=4).total == 10
