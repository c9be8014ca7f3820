"""Randomly initialised diffusers pipelines, small enough for tests, saved as real ones are.

Every family: pictures of 32x32 pixels, latents of 4x16x16, text encoders 16 (CLIP) and 40 (T5) channels wide.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from files.checksums import write_checksums
from priors.multiview_network import WEIGHTS, multiview_unet
from priors.tokenizer import MAX_TOKENS, build_tokenizer

WORDS = ["a", "red", "blue", "mug", "chair", "view", "front", "side", "back", "overhead", "bottom", ","]
LATENT_CHANNELS = 4
TEXT_WIDTH = 16
WIDE = 24  # SDXL's second text encoder
T5_WIDTH = 40
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def save_tiny_stable_diffusion(
    folder: Path, prediction_type: str = "epsilon", in_channels: int = LATENT_CHANNELS, seed: int = 0, larger: int = 1
) -> Path:
    """Stable Diffusion 1.x (epsilon) or 2.x (v_prediction).

    Args:
        larger: factor on channels and pixels a side.
    """
    tokenizer = build_tokenizer(WORDS)
    with _seed(seed):
        parts = {
            "unet": _unet(in_channels, larger, cross_attention_dim=TEXT_WIDTH),
            "vae": _autoencoder(larger=larger),
            "text_encoder": _clip(tokenizer),
        }
    scheduler = DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False, prediction_type=prediction_type)
    left_out = ("feature_extractor", "safety_checker")
    return _save(folder, "StableDiffusionPipeline", left_out, scheduler=scheduler, tokenizer=tokenizer, **parts)


def save_tiny_sdxl(folder: Path, prediction_type: str = "epsilon", in_channels: int = LATENT_CHANNELS) -> Path:
    """Stable Diffusion XL."""
    tokenizer = build_tokenizer(WORDS)
    with _seed(0):
        parts = {
            "unet": _unet(
                in_channels,
                cross_attention_dim=TEXT_WIDTH + WIDE,
                addition_embed_type="text_time",
                addition_time_embed_dim=4,
                projection_class_embeddings_input_dim=6 * 4 + WIDE,
            ),
            "vae": _autoencoder(),
            "text_encoder": _clip(tokenizer),
            "text_encoder_2": _clip(tokenizer, CLIPTextModelWithProjection, WIDE),
        }
    scheduler = EulerDiscreteScheduler(**NOISE, timestep_spacing="leading", prediction_type=prediction_type)
    tokenizers = {"tokenizer": tokenizer, "tokenizer_2": tokenizer}
    left_out = ("feature_extractor", "image_encoder")
    return _save(folder, "StableDiffusionXLPipeline", left_out, scheduler=scheduler, **tokenizers, **parts)


def save_tiny_sd3(folder: Path, t5: bool = True, in_channels: int = LATENT_CHANNELS) -> Path:
    """Stable Diffusion 3.5, with or without T5."""
    tokenizer, t5_tokenizer = build_tokenizer(WORDS), _t5_tokenizer()
    with _seed(0):
        parts = {
            "transformer": SD3Transformer2DModel(
                sample_size=16,
                in_channels=in_channels,
                out_channels=LATENT_CHANNELS,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=T5_WIDTH,
                caption_projection_dim=16,
                pooled_projection_dim=2 * TEXT_WIDTH,
                pos_embed_max_size=16,
                dual_attention_layers=(0,),
                qk_norm="rms_norm",
            ),
            "vae": _autoencoder(shift_factor=0.1),
            "text_encoder": _clip(tokenizer, CLIPTextModelWithProjection),
            "text_encoder_2": _clip(tokenizer, CLIPTextModelWithProjection),
        }
        if t5:
            parts |= {"text_encoder_3": _t5(t5_tokenizer), "tokenizer_3": t5_tokenizer}
    left_out = ("feature_extractor", "image_encoder", *(() if t5 else ("text_encoder_3", "tokenizer_3")))
    parts |= {"tokenizer": tokenizer, "tokenizer_2": tokenizer}
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return _save(folder, "StableDiffusion3Pipeline", left_out, scheduler=scheduler, **parts)


def save_tiny_flux(folder: Path, guidance_embeds: bool = True, in_channels: int = 4 * LATENT_CHANNELS) -> Path:
    """FLUX.1-dev, or without embedded guidance -schnell."""
    tokenizer, t5_tokenizer = build_tokenizer(WORDS), _t5_tokenizer()
    with _seed(0):
        parts = {
            "transformer": FluxTransformer2DModel(
                in_channels=in_channels,
                out_channels=4 * LATENT_CHANNELS,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=T5_WIDTH,
                pooled_projection_dim=TEXT_WIDTH,
                guidance_embeds=guidance_embeds,
                axes_dims_rope=(2, 2, 4),
            ),
            "vae": _autoencoder(shift_factor=0.1),
            "text_encoder": _clip(tokenizer),
            "text_encoder_2": _t5(t5_tokenizer),
        }
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    tokenizers = {"tokenizer": tokenizer, "tokenizer_2": t5_tokenizer}
    left_out = ("feature_extractor", "image_encoder")
    return _save(folder, "FluxPipeline", left_out, scheduler=scheduler, **tokenizers, **parts)


def save_tiny_multiview(folder: Path, views: int = 2) -> Path:
    """What differs from a base, which is beside it: all camera and self-attention weights of a random network."""
    save_tiny_stable_diffusion(folder / "base")
    with _seed(3):
        unet = multiview_unet(UNet2DConditionModel.from_pretrained(folder / "base/unet"))
        changed = {
            name: torch.randn_like(value) * 0.2
            for name, value in unet.state_dict().items()
            if name.startswith("class_embedding.") or ".attn1." in name
        }
    (folder / "views").mkdir()
    save_file(changed, folder / "views" / WEIGHTS)
    index = json.loads((folder / "base/model_index.json").read_text())
    index |= {"_class_name": "MultiViewStableDiffusionPipeline", "base": "../base", "views": views}
    (folder / "views/model_index.json").write_text(json.dumps(index))
    write_checksums(folder / "views")
    return folder / "views"


@contextmanager
def _seed(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _save(folder: Path, pipeline: str, left_out: tuple[str, ...], **parts) -> Path:
    index = {"_class_name": pipeline, "_diffusers_version": "0.35.0"} | {name: [None, None] for name in left_out}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        index[name] = [type(part).__module__.split(".")[0], type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    return folder


def _unet(in_channels: int, larger: int = 1, **config) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16 * larger,
        in_channels=in_channels,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(8 * larger, 16 * larger),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        norm_num_groups=4,
        **config,
    )


def _autoencoder(shift_factor: float | None = None, larger: int = 1) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8 * larger, 8 * larger),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,
        sample_size=32 * larger,
        scaling_factor=0.5,
        shift_factor=shift_factor,
    )


def _clip(
    tokenizer: CLIPTokenizer, kind: type = CLIPTextModel, width: int = TEXT_WIDTH
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """Two layers, so that the last hidden states but one are not the input."""
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _t5_tokenizer() -> T5TokenizerFast:
    """A unigram model of the words and, for others, of single characters."""
    marks = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocabulary = [*marks, *(("▁" + word, -1.0) for word in WORDS), *((chr(code), -9.0) for code in range(33, 127))]
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    with TemporaryDirectory() as folder:  # the way that all versions of transformers share
        tokenizer.save(str(Path(folder, "tokenizer.json")))
        return T5TokenizerFast.from_pretrained(folder, extra_ids=0, model_max_length=512)


def _t5(tokenizer: T5TokenizerFast) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=T5_WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )
