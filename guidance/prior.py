"""The interface of a frozen text-to-image diffusion model.

A model family (``guidance/families/``) implements it once; everything else in the project sees only
this: text to embeddings, pictures to latents and back, and a prediction at a noise level that can be
read as eps, x_0 or the network's own form.

The network runs in its own dtype; latents come in and predictions go out in float32, so that
schedule arithmetic, w(t) and losses never meet half precision.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from guidance.frozen import Frozen
from guidance.schedule import Latents, NoiseSchedule, Prediction
from guidance.vocabulary import warn_of_unknown_words

Images = Float[Tensor, "batch 3 height width"]


@dataclass(frozen=True)
class TextEmbeddings:
    """What the network reads of the text, one row a prompt."""

    tokens: Float[Tensor, "batch tokens width"]
    pooled: Float[Tensor, "batch pooled_width"] | None = None  # for families that condition on it
    guidance: Float[Tensor, "batch"] | None = None  # scale that guidance-distilled networks read; 1: none

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, index: slice | Tensor) -> TextEmbeddings:
        return self._map(lambda part: part[index])

    def to(self, device: torch.device | str) -> TextEmbeddings:
        return self._map(lambda part: part.to(device))

    def expand(self, count: int) -> TextEmbeddings:
        """One prompt for a batch of ``count``."""
        assert len(self) == 1, len(self)
        return self[torch.zeros(count, dtype=torch.int64, device=self.tokens.device)]

    def with_guidance(self, scale: float) -> TextEmbeddings:
        """The same texts at another embedded guidance scale; unchanged where the network reads none."""
        return self if self.guidance is None else replace(self, guidance=torch.full_like(self.guidance, scale))

    @staticmethod
    def concatenate(parts: list[TextEmbeddings]) -> TextEmbeddings:
        """The rows of all parts, which are of one model."""
        columns = zip(*((part.tokens, part.pooled, part.guidance) for part in parts), strict=True)
        return TextEmbeddings(*(None if column[0] is None else torch.cat(column) for column in columns))

    def _map(self, change: Callable[[Tensor], Tensor]) -> TextEmbeddings:
        parts = (self.tokens, self.pooled, self.guidance)
        return TextEmbeddings(*(None if part is None else change(part) for part in parts))


@dataclass(frozen=True)
class NetworkTraits:
    """Where adapters and conditions attach to a family's network."""

    lora_targets: tuple[str, ...]  # names of the attention projections, as peft matches them
    condition_module: str  # the submodule whose output a further condition is added to
    condition_width: int  # channels of that output


def without_autocast(device: torch.device) -> AbstractContextManager:
    """A block in which autocast changes no number format."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


class DiffusionPrior(nn.Module, ABC):
    """A frozen text-to-image model. It has no parameters of its own in the eyes of torch.

    Raises (``encode_text``):
        ValueError: an empty list, or a prompt longer than the tokenizer takes.
    """

    def __init__(
        self,
        network: nn.Module,
        autoencoder: nn.Module,
        schedule: NoiseSchedule,
        prediction_type: str,
        latent_shape: tuple[int, int, int],
        image_size: int,
        traits: NetworkTraits,
        vocabulary: frozenset[str] | None = None,
    ) -> None:
        super().__init__()
        self.frozen_network = Frozen(network)
        self.frozen_autoencoder = Frozen(autoencoder)
        self.schedule = schedule
        self.prediction_type = prediction_type
        self.latent_shape = latent_shape  # (channels, height, width) at the size the model was trained for
        self.image_size = image_size  # pixels, at the same size
        self.traits = traits
        self.vocabulary = vocabulary  # the words that the model knows, if it says so

    def _apply(self, fn: Callable, recurse: bool = True) -> DiffusionPrior:
        super()._apply(fn, recurse)
        self.schedule = self.schedule.to(self.device)  # device only: the tables stay float32
        return self

    @property
    def network(self) -> nn.Module:
        """The plain pretrained network."""
        return self.frozen_network.module

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def describe(self) -> str:
        """What it is, in a line."""
        shape = "x".join(map(str, self.latent_shape))
        return (
            f"{type(self).__name__}, predicts {self.prediction_type}, {self.image_size} px, latents {shape}, "
            f"{self.network.dtype}"
        )

    def encode_text(self, prompts: list[str]) -> TextEmbeddings:
        """One embedding a prompt; "" is the unconditional one. Loads the text encoder if it was released."""
        if not prompts:
            raise ValueError("prompts: the list is empty; pass at least one prompt")
        if self.vocabulary is not None:
            warn_of_unknown_words(prompts, self.vocabulary)
        return self._embed(prompts)

    @abstractmethod
    def _embed(self, prompts: list[str]) -> TextEmbeddings:
        """Tokenize and encode."""

    @abstractmethod
    def release_text_encoder(self) -> None:
        """Free the text encoder's memory; ``encode_text`` loads it again when it is needed."""

    @abstractmethod
    def encode_images(self, images: Images) -> Latents:
        """Scaled latents of images in [0, 1]: the posterior's mean, differentiable.

        The mean rather than a sample: the posterior's deviation is far below the noise that is added
        next, and the latents become a function of the picture alone.
        """

    @abstractmethod
    def decode_latents(self, latents: Latents) -> Images:
        """Images in [0, 1] of scaled latents."""

    @abstractmethod
    def run_network(self, network: nn.Module, x_t: Latents, t: Int[Tensor, "batch"], text: TextEmbeddings) -> Latents:
        """The float32 output of ``network``, which is this family's network or a twin of it with adapters."""

    def output(self, network: nn.Module, x_t: Latents, t: Int[Tensor, "batch"], text: TextEmbeddings) -> Latents:
        """``run_network`` in the number format of the weights, which the caller's autocast would undo."""
        with without_autocast(x_t.device):
            return self.run_network(network, x_t, t, text)

    def predict(
        self, x_t: Latents, t: Int[Tensor, "batch"], text: TextEmbeddings, network: nn.Module | None = None
    ) -> Prediction:
        """What the frozen network, or a twin of it, says of noisy latents. Differentiable in ``x_t``."""
        return self.as_prediction(self.output(self.network if network is None else network, x_t, t, text), x_t, t)

    def as_prediction(self, output: Latents, x_t: Latents, t: Int[Tensor, "batch"]) -> Prediction:
        """A raw output of this family's network, with what is needed to read it."""
        return Prediction(output, self.prediction_type, x_t, self.schedule.alpha(t), self.schedule.sigma(t))

    def predict_noise(self, x_t: Latents, t: Int[Tensor, "batch"], text: TextEmbeddings) -> Latents:
        """eps_pretrain(x_t, t, y), whatever the network predicts."""
        return self.predict(x_t, t, text).epsilon
