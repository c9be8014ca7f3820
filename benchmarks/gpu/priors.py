"""Frozen models with random weights: those of benchmarks/step_cost.py at full size, and tiny ones."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

from benchmarks.step_cost import DTYPE, MODELS, Model
from guidance.dry_run import META
from guidance.families.sdxl import StableDiffusionXLPrior
from guidance.families.stable_diffusion import StableDiffusionPrior
from guidance.model_files import ModelFiles
from guidance.prior import DiffusionPrior

WIDTH = 32  # of a tiny text


def tiny_stable_diffusion(device: torch.device = META) -> StableDiffusionPrior:
    """32 px, latents of 16."""
    unet = tiny_unet(device, cross_attention_dim=WIDTH)
    return StableDiffusionPrior(unet, tiny_autoencoder(device), _noise(), (None,), ModelFiles("config"), device, DTYPE)


def tiny_stable_diffusion_xl(device: torch.device = META) -> StableDiffusionXLPrior:
    """The same with a pooled text and sizes as further conditions."""
    unet = tiny_unet(
        device,
        cross_attention_dim=WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )
    return StableDiffusionXLPrior(
        unet, tiny_autoencoder(device), _noise(), (None, None), ModelFiles("config"), device, DTYPE
    )


def tiny_unet(device: torch.device, **config: object) -> UNet2DConditionModel:
    with device:
        return UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=2,
            norm_num_groups=4,
            **config,
        ).to(DTYPE)


def tiny_autoencoder(device: torch.device) -> AutoencoderKL:
    with device:
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            sample_size=32,
        ).to(DTYPE)


def _noise() -> DDPMScheduler:
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


TINY = {
    "sd21": Model("tiny Stable Diffusion", tiny_stable_diffusion, tokens=(77, WIDTH)),
    "sdxl": Model("tiny Stable Diffusion XL", tiny_stable_diffusion_xl, tokens=(77, WIDTH), pooled=WIDTH),
}


def model_of(preset: str, small: bool) -> Model:
    models = TINY if small else MODELS
    if preset not in models:
        raise ValueError(f"--small has no tiny form of {preset}; it has {', '.join(models)}")
    return models[preset]


def build(model: Model, device: torch.device) -> DiffusionPrior:
    """With weights drawn on the device."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        return model.build(device)
