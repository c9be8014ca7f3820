"""Weights under the names that the authors' own code gives them, from the published layouts.

The inverse of what diffusers does when it reads such a file.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Weights = dict[str, Tensor]

UNET = "model.diffusion_model."
_UNET_WHOLE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "class_embedding.linear_1": "camera_embed.0",
    "class_embedding.linear_2": "camera_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def unet_name(name: str, layers: int = 1, upsampler_after_attention: bool = False) -> str:
    """Of a UNet's weight; ``layers`` a block, and whether blocks with an upsampler have attention."""
    stem = next((own for own in _UNET_WHOLE if name.startswith(own + ".")), None)
    if stem is not None:
        name = _UNET_WHOLE[stem] + name.removeprefix(stem)
    else:
        found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name)
        assert found is not None, name
        kind, block, part, index, rest = found.groups()
        first, layer = int(block) * (layers + 1), int(index)
        if part == "downsamplers":
            return f"input_blocks.{first + layers + 1}.0.op.{rest.removeprefix('conv.')}"
        if part == "upsamplers":
            return f"output_blocks.{first + layers}.{1 + upsampler_after_attention}.{rest}"
        place = {"resnets": 0, "attentions": 1}[part]
        blocks = f"input_blocks.{first + layer + 1}" if kind == "down" else f"output_blocks.{first + layer}"
        name = f"{blocks}.{place}.{rest}"
    if ".transformer_blocks." not in name:
        for own, published in _UNET_RESNET.items():
            name = name.replace(f".{own}.", f".{published}.")
    return name


def autoencoder(weights: Weights, blocks: int = 2) -> Weights:
    """Of an autoencoder with ``blocks`` blocks in each half."""

    def rename(name: str) -> str:
        name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up.{blocks - 1 - int(found[1])}", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
        for own, published in {
            "down_blocks": "down",
            "mid_block.attentions.0": "mid.attn_1",
            ".resnets.": ".block.",
            "conv_shortcut": "nin_shortcut",
            "downsamplers.0": "downsample",
            "upsamplers.0": "upsample",
            "conv_norm_out": "norm_out",
            "group_norm": "norm",
            "to_out.0": "proj_out",
            "to_q": "q",
            "to_k": "k",
            "to_v": "v",
        }.items():
            name = name.replace(own, published)
        return name

    # Attention is made of convolutions there.
    return {
        rename(name): value[:, :, None, None] if "mid_block.attentions" in name and value.ndim == 2 else value
        for name, value in weights.items()
    }


def open_clip(weights: Weights) -> Weights:
    """Of a CLIP text encoder with projection, in OpenCLIP's names: queries, keys and values in one."""
    plain = {name.removeprefix("text_model."): value for name, value in weights.items()}
    found = {
        "positional_embedding": plain.pop("embeddings.position_embedding.weight"),
        "token_embedding.weight": plain.pop("embeddings.token_embedding.weight"),
        "ln_final.weight": plain.pop("final_layer_norm.weight"),
        "ln_final.bias": plain.pop("final_layer_norm.bias"),
        "text_projection": plain.pop("text_projection.weight").T,
    }
    for name in list(plain):
        if ".self_attn.q_proj." in name:
            parts = [plain.pop(name.replace("q_proj", f"{letter}_proj")) for letter in "qkv"]
            plain[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    for name, value in plain.items():
        for own, published in {
            "encoder.layers.": "transformer.resblocks.",
            "self_attn": "attn",
            "layer_norm": "ln_",
            "fc1": "c_fc",
            "fc2": "c_proj",
        }.items():
            name = name.replace(own, published)
        found[name] = value
    return found


def mmdit(weights: Weights) -> Weights:
    """Of Stable Diffusion 3's transformer: queries, keys and values in one, shift before scale."""
    last = max(int(name.split(".")[1]) for name in weights if name.startswith("transformer_blocks."))
    rest, found = dict(weights), {}

    def swapped(value: Tensor) -> Tensor:
        return torch.cat(value.chunk(2)[::-1])

    for block in range(last + 1):
        for own, published in {
            "attn.to_": "x_block.attn",
            "attn.add_": "context_block.attn",
            "attn2.to_": "x_block.attn2",
        }.items():
            end = "_proj" if own == "attn.add_" else ""
            for kind in ("weight", "bias"):
                names = [f"transformer_blocks.{block}.{own}{letter}{end}.{kind}" for letter in "qkv"]
                if names[0] in rest:
                    found[f"joint_blocks.{block}.{published}.qkv.{kind}"] = torch.cat(
                        [rest.pop(name) for name in names]
                    )
    for name, value in rest.items():
        if name.startswith(("norm_out.", f"transformer_blocks.{last}.norm1_context.")):
            value = swapped(value)
        for own, published in {
            "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
            "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
            "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
            "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
            "pos_embed.pos_embed": "pos_embed",
            "pos_embed.proj": "x_embedder.proj",
            "norm_out.linear": "final_layer.adaLN_modulation.1",
            "transformer_blocks.": "joint_blocks.",
            "norm1_context.linear": "context_block.adaLN_modulation.1",
            "norm1.linear": "x_block.adaLN_modulation.1",
            "ff_context.net.0.proj": "context_block.mlp.fc1",
            "ff_context.net.2": "context_block.mlp.fc2",
            "ff.net.0.proj": "x_block.mlp.fc1",
            "ff.net.2": "x_block.mlp.fc2",
            "attn.norm_added_": "context_block.attn.ln_",
            "attn.norm_": "x_block.attn.ln_",
            "attn2.norm_": "x_block.attn2.ln_",
            "attn.to_add_out": "context_block.attn.proj",
            "attn.to_out.0": "x_block.attn.proj",
            "attn2.to_out.0": "x_block.attn2.proj",
        }.items():
            name = name.replace(own, published)
        found["final_layer.linear" + name.removeprefix("proj_out") if name.startswith("proj_out.") else name] = value
    return found


def save_checkpoint(folder: Path, family: str, file: Path) -> Path:
    """A tiny pipeline's networks in one file, as checkpoints of the family come: SD3's and FLUX's without texts.

    FLUX's keeps diffusers' names: its published layout can't be tiny, since diffusers knows its width.
    """

    def part(name: str) -> Weights:
        (weights,) = (folder / name).glob("*.safetensors")
        return load_file(weights)

    def prefixed(prefix: str, weights: Weights) -> Weights:
        return {prefix + name: value for name, value in weights.items()}

    def text_model(weights: Weights) -> Weights:
        return prefixed("text_model.", {name.removeprefix("text_model."): value for name, value in weights.items()})

    if family == "flux":
        whole = part("transformer")
    elif family == "sd3":
        whole = prefixed(UNET, mmdit(part("transformer"))) | prefixed("first_stage_model.", autoencoder(part("vae")))
    else:
        unet = {unet_name(name, upsampler_after_attention=True): value for name, value in part("unet").items()}
        whole = prefixed(UNET, unet) | prefixed("first_stage_model.", autoencoder(part("vae")))
        texts = "conditioner.embedders.0.transformer." if family == "sdxl" else "cond_stage_model.transformer."
        whole |= prefixed(texts, text_model(part("text_encoder")))
        if family == "sdxl":
            whole |= prefixed("conditioner.embedders.1.model.", open_clip(part("text_encoder_2")))
    whole = {name: value.contiguous() for name, value in whole.items()}
    if file.suffix == ".safetensors":
        save_file(whole, file)
    else:
        torch.save({"state_dict": whole}, file)
    return file
