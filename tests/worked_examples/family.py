"""The family of docs/architecture.md on a tiny random model: it agrees with diffusers' pipeline, and it trains."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
import torch
from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel, AutoencoderKL, FlowMatchEulerDiscreteScheduler
from transformers import LlamaTokenizerFast, UMT5Config, UMT5EncoderModel

from guidance.building import build_guidance
from guidance.config import EstimatorConfig, GuidanceConfig
from guidance.families.auraflow import AuraFlowPrior
from guidance.gradients import as_loss
from guidance.loading import load_prior
from guidance.prior import DiffusionPrior
from guidance.prompts import embed_prompt
from renderers.cameras import turntable_cameras
from tests.rounding import assert_equal_to_rounding

SCALE = 3.0  # of classifier-free guidance


@pytest.fixture(scope="module")
def pipeline() -> AuraFlowPipeline:
    """Pictures of 32x32 pixels, latents of 4x16x16, random weights."""
    marks = ["<unk>", "<s>", "</s>", "<pad>", "▁"]
    vocabulary = {token: index for index, token in enumerate([*marks, *string.ascii_lowercase, ","])}
    tokenizer = LlamaTokenizerFast(vocab=vocabulary, merges=[], pad_token="<pad>", model_max_length=256)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = AuraFlowTransformer2DModel(
            sample_size=16,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            caption_projection_dim=16,
            pos_embed_max_size=64,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            norm_num_groups=4,
            sample_size=32,
        )
        text_encoder = UMT5EncoderModel(
            UMT5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.73)
    pipeline = AuraFlowPipeline(tokenizer, text_encoder, vae, transformer, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def folder(pipeline: AuraFlowPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("auraflow")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def prior(folder: Path) -> DiffusionPrior:
    return load_prior(folder)


def test_steps_agree_with_the_diffusers_pipeline(pipeline: AuraFlowPipeline, prior: DiffusionPrior) -> None:
    """Texts, noise level and prediction, as the pipeline's network sees and makes them."""
    assert type(prior) is AuraFlowPrior
    seen = []
    pipeline.transformer.register_forward_hook(
        lambda _, args, kwargs, output: seen.append((args[0], kwargs["timestep"], output[0])), with_kwargs=True
    )
    pipeline("a red mug", height=32, width=32, sigmas=[1.0, 0.75], guidance_scale=SCALE, output_type="latent")
    text = prior.encode_text(["", "a red mug"])
    for x_t, time, output in seen:
        t = (prior.schedule.sigmas - time[0]).abs().argmin().expand(2)
        torch.testing.assert_close(prior.schedule.sigma(t).flatten(), time, atol=1e-6, rtol=0)
        with torch.no_grad():
            found = prior.predict(x_t, t, text).output
        assert_equal_to_rounding(found, output)
    assert len(seen) == 2 and (output[0] != output[1]).any()


def test_vsd_moves_renders_and_estimator(prior: DiffusionPrior) -> None:
    config = GuidanceConfig()
    guidance = build_guidance(prior, config, EstimatorConfig(), torch.Generator().manual_seed(0))
    prompts, cameras = embed_prompt(prior, "a red mug"), turntable_cameras(2, 20.0, 3.0, 40.0)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 32, 32, generator=generator, requires_grad=True)
    latents = guidance.encode(images)
    as_loss(latents, guidance.gradient(latents, prompts, cameras, (0.1, 0.9), generator).gradient).backward()
    assert images.grad.abs().sum() > 0
    guidance.estimator_loss(latents, prompts, cameras, generator).backward()
    gradients = {name: parameter.grad for name, parameter in guidance.estimator.named_parameters()}
    # The last layers begin at zero, so that nothing reaches the first ones in the first step.
    reached = [name for name, gradient in gradients.items() if gradient is not None and gradient.abs().sum() > 0]
    assert any("lora_B" in name for name in reached) and "camera_embedding.out.weight" in reached
