"""Models that see several views of one object at once, as MVDream does (Shi et al. 2023, arXiv 2308.16512).

Stable Diffusion's network with two changes (``priors/multiview_network.py``): self-attention runs over all views of a
group, and the camera is an input. ``model_index.json`` says how many ``views`` a group has. With ``base`` it names a
folder beside it with a model of single views: then the folder itself holds only the weights that differ.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from jaxtyping import Int
from torch import Tensor, nn
from transformers import CLIPTokenizer

from guidance.families.additions import fuse_loras
from guidance.families.components import load_component, require_components
from guidance.families.registry import family
from guidance.families.stable_diffusion import COMPONENTS, StableDiffusionPrior
from guidance.families.text import load_tokenizer
from guidance.families.unet import load_variance_preserving
from guidance.frozen_model import TextEmbeddings
from guidance.model_files import ModelFiles
from guidance.schedule import Latents
from priors.multiview_network import apply_difference, camera_condition, join_views, multiview_unet

CAMERA_WIDTH = 16  # numbers of a flattened matrix


@family("MultiViewStableDiffusionPipeline", preset="mvdream")
class MultiViewPrior(StableDiffusionPrior):
    """A Stable Diffusion whose views of one object see each other; prompts need no view words."""

    inputs = MappingProxyType({"class_embed_type": "projection"})  # cameras

    @classmethod
    def views_of(cls, files: ModelFiles, index: dict[str, Any]) -> int:
        views = index.get("views")
        if not isinstance(views, int) or views < 2:
            raise ValueError(
                f"prior: model_index.json of {str(files)!r} must say how many views of an object the model sees at "
                f'once, such as "views": 4, not {views!r}'
            )
        return views

    @classmethod
    def load(cls, files: ModelFiles, index: dict[str, Any], device: torch.device, dtype: torch.dtype) -> MultiViewPrior:
        views, place = cls.views_of(files, index), files
        if "base" in index:
            place = replace(files, path=Path(files.place) / index["base"])
        require_components(place, index, COMPONENTS)
        scheduler = load_variance_preserving(place, index)
        unet = cls.load_unet(place, files, index, device, dtype)
        if device.type != "meta":
            fuse_loras(unet, "unet", files, cls.lora_loader, cls.lora_parts)
        if unet.config.class_embed_type != "projection":
            raise ValueError(
                f"prior: the UNet of {str(files)!r} has no camera embedding (class_embed_type is "
                f"{unet.config.class_embed_type!r}, not 'projection'): it sees one view at a time; give it as an "
                "ordinary Stable Diffusion, or fetch the multi-view model again"
            )
        width = unet.config.projection_class_embeddings_input_dim
        if width != CAMERA_WIDTH:
            raise ValueError(
                f"prior: the camera embedding of {str(files)!r} reads {width} numbers, not the {CAMERA_WIDTH} of a "
                "camera matrix; fetch a model of the kind of MVDream"
            )
        autoencoder = load_component(AutoencoderKL, place, "vae", device, dtype)
        tokenizer = load_tokenizer(CLIPTokenizer, place, "tokenizer")
        prior = cls(unet, autoencoder, scheduler, (tokenizer,), place, device, dtype)
        prior.views_together = views
        join_views(unet, views, AttnProcessor() if device.type == "cpu" else AttnProcessor2_0())
        return prior

    @classmethod
    def load_unet(
        cls, place: ModelFiles, files: ModelFiles, index: dict[str, Any], device: torch.device, dtype: torch.dtype
    ) -> UNet2DConditionModel:
        """The UNet in ``place``, with the weights of ``files`` where the index names a base."""
        unet = load_component(UNet2DConditionModel, place, "unet", device, dtype)
        if "base" in index:
            with torch.device(device.type):
                unet = multiview_unet(unet)
            if device.type != "meta":
                apply_difference(unet, Path(files.place))
        return unet

    def describe(self) -> str:
        return f"{super().describe()}, {self.views_together} views of an object together"

    def run_network(self, network: nn.Module, x_t: Latents, t: Int[Tensor, "batch"], text: TextEmbeddings) -> Latents:
        assert text.c2w is not None, "a multi-view model needs the cameras; embed the prompt with it"
        assert isinstance(self.network, UNet2DConditionModel)
        dtype = self.network.dtype  # not that of a twin, whose adapters are float32
        camera = camera_condition(text.c2w).to(dtype)
        return network(x_t.to(dtype), t, text.tokens.to(dtype), class_labels=camera).sample.float()
