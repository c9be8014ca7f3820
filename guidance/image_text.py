"""Frozen image-text models: pictures and captions in one space, for CLIP guidance.

Two kinds: any CLIP that transformers' ``CLIPModel`` loads (Radford et al. 2021, arXiv 2103.00020), and the
judge of the bundled world (``priors/judge_model.py``), which knows that world's words alone.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPConfig, CLIPModel
from transformers.image_processing_base import ImageProcessingMixin

from guidance.families.text import check_tokenizer, tokenize
from guidance.frozen_model import Frozen, FrozenModel, Images, TextEmbeddings
from guidance.hub import ask_hub_once
from guidance.weights import load_whole
from priors.judge_model import load_judge

JUDGE_FILE = "judge.safetensors"
JUDGE_SIZE = 64  # pixels a side
WORKING_ID = "openai/clip-vit-base-patch32"


class ImageTextModel(FrozenModel):
    """Unit vectors of pictures and texts, in float32."""

    def __init__(self, model: nn.Module, image_size: int) -> None:
        super().__init__()
        self.frozen = Frozen(model)
        self.image_size = image_size  # pixels a side

    @property
    def device(self) -> torch.device:
        return next(self.frozen.module.parameters()).device

    def describe(self) -> str:
        return f"{type(self).__name__}, {self.image_size} px"

    def encode_images(self, images: Images) -> Float[Tensor, "batch dim"]:
        """Of images in [0, 1] of the model's size; differentiable."""
        return F.normalize(self._image_features(images).float(), dim=-1)

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> TextEmbeddings:
        """One vector a prompt, as a single token; that of "" is zero, because it says nothing.

        Raises:
            ValueError: a prompt that is too long, or holds words that a judge doesn't know.
        """
        spoken = [index for index, prompt in enumerate(prompts) if prompt]
        features = F.normalize(self._text_features([prompts[index] for index in spoken]).float(), dim=-1)
        rows = features.new_zeros(len(prompts), features.shape[-1])
        rows[spoken] = features
        return TextEmbeddings(rows[:, None])

    @torch.no_grad()
    def similarity(self, images: Images, prompt: str) -> Float[Tensor, "batch"]:
        """Cosine between pictures in [0, 1], of any size, and a prompt."""
        size = (self.image_size, self.image_size)
        resized = F.interpolate(images.to(self.device).float(), size, mode="bilinear", antialias=True)
        return self.encode_images(resized.clamp(0, 1)) @ self.encode_text([prompt]).tokens[0, 0]

    def release_text_encoder(self) -> None:
        """Nothing to free here."""

    @abstractmethod
    def _image_features(self, images: Images) -> Float[Tensor, "batch dim"]: ...

    @abstractmethod
    def _text_features(self, prompts: list[str]) -> Float[Tensor, "batch dim"]: ...


class Clip(ImageTextModel):
    """Any CLIP of transformers, from a folder or the hub."""

    def __init__(self, source: Path | str, device: torch.device) -> None:
        """Load it.

        Raises:
            FileNotFoundError: a file is absent or cannot be fetched.
            ValueError: a model of another kind, or weights that are not all there.
        """
        if not isinstance(source, Path):
            ask_hub_once()
        try:
            kind = CLIPConfig.get_config_dict(source)[0].get("model_type")
            if kind != "clip":  # transformers would fill in for a missing or another model's config.json
                raise ValueError(
                    f"guidance.clip_model: the config.json of {str(source)!r} is of a model of type {kind!r}, a 'clip' "
                    f"is needed; use priors/judge, a folder, or a hub id such as {WORKING_ID!r}"
                )
            model = load_whole(CLIPModel, source, "guidance.clip_model")
            tokenizer = AutoTokenizer.from_pretrained(source)
            pixels, _ = ImageProcessingMixin.get_image_processor_dict(source)
        except OSError as error:
            reason = str(error).splitlines()[0].rstrip(". ")
            raise FileNotFoundError(
                f"guidance.clip_model: {str(source)!r} cannot be loaded as a CLIP with tokenizer and "
                f"preprocessor_config.json: {reason}; use priors/judge, a folder, or a hub id such as {WORKING_ID!r}"
            ) from error
        check_tokenizer(tokenizer, source)
        absent = [name for name in ("image_mean", "image_std") if name not in pixels]
        if absent:
            raise ValueError(
                f"guidance.clip_model: preprocessor_config.json of {str(source)!r} lacks {', '.join(absent)} (of the "
                "colours that the model was trained on); add them, or use priors/judge or a hub id such as "
                f"{WORKING_ID!r}"
            )
        super().__init__(model.to(device), model.config.vision_config.image_size)
        self.tokenizer = tokenizer
        mean, std = (torch.tensor(pixels[name], device=device).view(3, 1, 1) for name in ("image_mean", "image_std"))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def release_text_encoder(self) -> None:
        self.frozen.module.text_model = None

    def _image_features(self, images: Images) -> Float[Tensor, "batch dim"]:
        model = self.frozen.module
        return model.visual_projection(model.vision_model(pixel_values=(images - self.mean) / self.std).pooler_output)

    def _text_features(self, prompts: list[str]) -> Float[Tensor, "batch dim"]:
        model = self.frozen.module
        assert model.text_model is not None, "the text encoder was released"
        tokens = tokenize(self.tokenizer, prompts).to(self.device)
        return model.text_projection(model.text_model(input_ids=tokens).pooler_output)


class BundledJudge(ImageTextModel):
    """The judge, asked for similarity alone."""

    def __init__(self, folder: Path | str, device: torch.device) -> None:
        """Load it; raises as ``priors.judge_model.load_judge``."""
        super().__init__(load_judge(folder).to(device), JUDGE_SIZE)

    def _image_features(self, images: Images) -> Float[Tensor, "batch dim"]:
        return self.frozen.module(images).embedding

    def _text_features(self, prompts: list[str]) -> Float[Tensor, "batch dim"]:
        return self.frozen.module.embed_text(prompts)


def load_image_text_model(path_or_id: str | Path, device: torch.device | str = "cpu") -> ImageTextModel:
    """The judge where the folder holds one, else a CLIP from a folder or the hub.

    Raises:
        FileNotFoundError: neither.
        ValueError: weights that are not what their checksums say.
    """
    folder = Path(path_or_id).expanduser()
    kind = BundledJudge if (folder / JUDGE_FILE).is_file() else Clip
    return kind(folder if folder.is_dir() else path_or_id, torch.device(device))
