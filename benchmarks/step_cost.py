"""What one step of score distillation costs, counted: FLOPs and memory, for models at full size.

    python -m benchmarks.step_cost                    # all models, about eight minutes of one core
    python -m benchmarks.step_cost --models sd21 sdxl

Nothing is downloaded or allocated: networks are built from their public configurations on meta tensors, and
the code that training runs is run on them (``guidance/dry_run.py``): encoding with its backward pass, the frozen
score, the estimator's score, its training pass. ``torch.utils.flop_counter`` counts matrix products,
convolutions and attention, multiply-adds as two; fused attention counts the recomputation in its backward
pass. Rendering is not included. One image; counts do not depend on the machine.

Guidance scale and gradient checkpointing are those of the models' presets (configs/prior) for sds-nerf and vsd-nerf;
where a preset checkpoints, VSD is counted without it too. Scale 1 needs no classifier-free pair; all others cost the
same.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from torch.utils.flop_counter import FlopCounterMode

from configs.load import load_config
from configs.sources import CONFIG_FOLDER
from guidance.building import build_guidance
from guidance.config import EstimatorConfig, GuidanceConfig
from guidance.dry_run import META, fused_attention, run_step
from guidance.families.flow import flow_schedule
from guidance.families.flux import FluxPrior
from guidance.families.sd3 import StableDiffusion3Prior
from guidance.families.sdxl import StableDiffusionXLPrior
from guidance.families.stable_diffusion import StableDiffusionPrior
from guidance.frozen_model import TextEmbeddings
from guidance.memory import GB, estimate_memory
from guidance.model_files import ModelFiles
from guidance.prior import DiffusionPrior
from guidance.prompts import PromptEmbeddings
from guidance.score_distillation import ScoreDistillation
from renderers.config import ViewThresholds

TERA = 1e12
DTYPE = torch.bfloat16


@dataclass(frozen=True)
class Step:
    """What is counted: a line of the table."""

    name: str
    guidance: GuidanceConfig
    estimator: EstimatorConfig


@dataclass(frozen=True)
class Model:
    """A public model, by the shapes of what it reads."""

    name: str
    build: Callable[..., DiffusionPrior]  # on a device: with random weights; by itself: on meta tensors
    tokens: tuple[int, int]  # of a prompt, and their width
    pooled: int | None = None  # width
    embedded_guidance: bool = False  # instead of a classifier-free pair


def stable_diffusion_2_1(device: torch.device = META) -> DiffusionPrior:
    """stabilityai/stable-diffusion-2-1-base."""
    with device:
        unet = UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        )
        autoencoder = _autoencoder(size=512, channels=4)
    return StableDiffusionPrior(unet.to(DTYPE), autoencoder, _noise(), (None,), ModelFiles("config"), device, DTYPE)


def stable_diffusion_xl(device: torch.device = META) -> DiffusionPrior:
    """stabilityai/stable-diffusion-xl-base-1.0."""
    with device:
        unet = UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
        autoencoder = _autoencoder(size=1024, channels=4)
    return StableDiffusionXLPrior(
        unet.to(DTYPE), autoencoder, _noise(), (None, None), ModelFiles("config"), device, DTYPE
    )


def stable_diffusion_3_5_medium(device: torch.device = META) -> DiffusionPrior:
    """stabilityai/stable-diffusion-3.5-medium."""
    with device:
        transformer = SD3Transformer2DModel(
            sample_size=128,
            num_layers=24,
            num_attention_heads=24,
            caption_projection_dim=1536,
            pos_embed_max_size=384,
            dual_attention_layers=tuple(range(13)),
            qk_norm="rms_norm",
        )
        autoencoder = _autoencoder(size=1024, channels=16, use_quant_conv=False, use_post_quant_conv=False)
    schedule = flow_schedule(FlowMatchEulerDiscreteScheduler(shift=3.0), patches=64**2)
    return StableDiffusion3Prior(
        transformer.to(DTYPE), autoencoder, schedule, (None, None, None), ModelFiles("config"), device, DTYPE
    )


def flux_1_dev(device: torch.device = META) -> DiffusionPrior:
    """black-forest-labs/FLUX.1-dev."""
    with device:
        transformer = FluxTransformer2DModel(guidance_embeds=True)
        autoencoder = _autoencoder(size=1024, channels=16, use_quant_conv=False, use_post_quant_conv=False)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return FluxPrior(
        transformer.to(DTYPE),
        autoencoder,
        flow_schedule(scheduler, patches=64**2),
        (None, None),
        ModelFiles("config"),
        device,
        DTYPE,
    )


MODELS = {
    "sd21": Model("Stable Diffusion 2.1, 512 px", stable_diffusion_2_1, tokens=(77, 1024)),
    "sdxl": Model("Stable Diffusion XL, 1024 px", stable_diffusion_xl, tokens=(77, 2048), pooled=1280),
    "sd35": Model("Stable Diffusion 3.5 medium, 1024 px", stable_diffusion_3_5_medium, tokens=(333, 4096), pooled=2048),
    "flux": Model("FLUX.1-dev, 1024 px", flux_1_dev, tokens=(512, 4096), pooled=768, embedded_guidance=True),
}


def steps_of(preset: str) -> Iterator[Step]:
    """SDS and the forms of VSD, as a preset of configs/prior has them."""
    sds, vsd = (
        load_config(CONFIG_FOLDER / f"{name}-nerf.yaml", {"prior": preset, "trainer.accelerator": "cpu"}).config
        for name in ("sds", "vsd")
    )
    yield Step("SDS", sds.guidance, sds.estimator)
    for checkpointing in (False, True) if vsd.estimator.gradient_checkpointing else (False,):
        estimator = replace(vsd.estimator, gradient_checkpointing=checkpointing)
        for name, shared in {"shared pass": True, "separate passes": False}.items():
            yield Step(f"VSD, {name}", replace(vsd.guidance, shared_pass=shared), estimator)


def guidance_of(prior: DiffusionPrior, step: Step) -> ScoreDistillation:
    """On the meta device."""
    with META:
        return build_guidance(prior, step.guidance, step.estimator, torch.Generator().manual_seed(0))


def prompts_of(model: Model, device: torch.device = META) -> PromptEmbeddings:
    """Embeddings of the model's shapes, random."""

    def text(rows: int) -> TextEmbeddings:
        tokens = torch.randn(rows, *model.tokens, dtype=DTYPE, device=device)
        pooled = None if model.pooled is None else torch.randn(rows, model.pooled, dtype=DTYPE, device=device)
        return TextEmbeddings(tokens, pooled, torch.ones(rows, device=device) if model.embedded_guidance else None)

    return PromptEmbeddings(text(5), text(1), text(1), ViewThresholds())


def count_flops(guidance: ScoreDistillation, prompts: PromptEmbeddings) -> int:
    """Of one step with one image."""
    with FlopCounterMode(display=False) as counter, fused_attention():
        run_step(guidance, prompts)
    return counter.get_total_flops()


def _autoencoder(size: int, channels: int, **config: object) -> AutoencoderKL:
    """The architecture that all of these models share."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=channels,
        sample_size=size,
        **config,
    ).to(DTYPE)


def _noise() -> DDPMScheduler:
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    args = parser.parse_args()

    diffusers_logging.set_verbosity_error()  # casts of weights without numbers worry it
    print("| model | step | scale | checkpointing | TFLOP | weights, GB | estimator, GB | a step, GB | total, GB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for preset in args.models:
        model = MODELS[preset]
        prior, prompts = model.build(), prompts_of(model)
        for step in steps_of(preset):
            guidance = guidance_of(prior, step)
            flops, memory = count_flops(guidance, prompts), estimate_memory(guidance, prompts)
            sizes = (memory.weights, memory.estimator, memory.step, memory.total)
            row = " | ".join(f"{size / GB:.2f}" for size in sizes)
            checkpointing = "yes" if step.guidance.trains_estimator and step.estimator.gradient_checkpointing else ""
            name = f"{model.name} | {step.name} | {step.guidance.guidance_scale:g} | {checkpointing}"
            print(f"| {name} | {flops / TERA:.2f} | {row} |", flush=True)


if __name__ == "__main__":
    main()
