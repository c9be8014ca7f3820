"""The interface of a frozen text-to-image diffusion model.

A model family (``guidance/families/``) implements it once; everything else in the project sees only
this: text to embeddings, pictures to latents and back, and a prediction at a noise level that can be
read as eps, x_0 or the network's own form.

The network runs in its own dtype; latents come in and predictions go out in float32, so that
schedule arithmetic, w(t) and losses never meet half precision.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from guidance.frozen_model import Frozen, FrozenModel, Images, TextEmbeddings
from guidance.model_files import ModelFiles
from guidance.network_graphs import NetworkGraphs
from guidance.schedule import Latents, NoiseSchedule, Prediction
from guidance.vocabulary import warn_of_unknown_words


@dataclass(frozen=True)
class NetworkTraits:
    """Where adapters and conditions attach to a family's network."""

    lora_targets: tuple[str, ...]  # names of the attention projections, as peft matches them
    condition_module: str  # the submodule whose output a further condition is added to
    condition_width: int  # channels of that output


def without_autocast(device: torch.device) -> AbstractContextManager:
    """A block in which autocast changes no number format."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


@contextmanager
def added_to_output(module: nn.Module, addition: Float[Tensor, "batch width"]) -> Iterator[None]:
    """Within the block, ``module`` returns its output plus ``addition``."""
    handle = module.register_forward_hook(lambda _module, _args, output: output + addition.to(output.dtype))
    try:
        yield
    finally:
        handle.remove()


class DiffusionPrior(FrozenModel):
    """A frozen text-to-image model; each family of models is a subclass in ``guidance/families/``."""

    half_format: ClassVar[torch.dtype] = torch.bfloat16  # of the weights on a GPU, where nothing else is stated

    @classmethod
    @abstractmethod
    def load(cls, files: ModelFiles, index: dict[str, Any], device: torch.device, dtype: torch.dtype) -> DiffusionPrior:
        """All parts except the text encoders, which are loaded when a prompt comes.

        Args:
            files: where its parts are, and what is added to them.
            index: its ``model_index.json``.

        Raises:
            FileNotFoundError: a part, or a file of one, is missing.
            ValueError: a part of another family or task, or noise that the family isn't supported with.
        """

    @classmethod
    def views_of(cls, files: ModelFiles, index: dict[str, Any]) -> int:
        """How many views of one object the model sees at once, from its ``model_index.json``.

        Raises:
            ValueError: a multi-view model that doesn't say it.
        """
        return 1

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
        self.graphs: NetworkGraphs | None = None  # where calls of the networks are recorded

    def _apply(self, fn: Callable, recurse: bool = True) -> DiffusionPrior:
        super()._apply(fn, recurse)
        self.schedule = self.schedule.to(self.device)  # device only: the tables stay float32
        if self.graphs is not None:
            self.graphs.forget()
        return self

    @property
    def network(self) -> nn.Module:
        """The plain pretrained network."""
        return self.frozen_network.module

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def describe(self) -> str:
        shape = "x".join(map(str, self.latent_shape))
        return (
            f"{type(self).__name__}, predicts {self.prediction_type}, {self.image_size} px, latents {shape}, "
            f"{self.network.dtype}"
        )

    def encode_text(self, prompts: list[str]) -> TextEmbeddings:
        """As ``FrozenModel``. "" is the unconditional text. Loads the text encoder if it was released."""
        if not prompts:
            raise ValueError("prompts: the list is empty; pass at least one prompt")
        if self.vocabulary is not None:
            warn_of_unknown_words(prompts, self.vocabulary)
        return self._embed(prompts)

    @abstractmethod
    def _embed(self, prompts: list[str]) -> TextEmbeddings:
        """Tokenize and encode."""

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

    def output(
        self,
        network: nn.Module,
        x_t: Latents,
        t: Int[Tensor, "batch"],
        text: TextEmbeddings,
        addition: Float[Tensor, "batch width"] | None = None,
    ) -> Latents:
        """``run_network`` in the number format of the weights, which the caller's autocast would undo.

        Args:
            addition: a further condition, added to the output of ``traits.condition_module``.
        """

        def call(x_t: Latents, t: Tensor, text: TextEmbeddings, addition: Tensor | None) -> Latents:
            if addition is None:
                return self.run_network(network, x_t, t, text)
            with added_to_output(network.get_submodule(self.traits.condition_module), addition):
                return self.run_network(network, x_t, t, text)

        with without_autocast(x_t.device):
            if self.graphs is None or not self.graphs.fit(x_t.device):
                return call(x_t, t, text, addition)
            return self.graphs(network, call, x_t, t, text, addition)

    def predict(
        self,
        x_t: Latents,
        t: Int[Tensor, "batch"],
        text: TextEmbeddings,
        network: nn.Module | None = None,
        addition: Float[Tensor, "batch width"] | None = None,
    ) -> Prediction:
        """What the frozen network, or a twin of it, says of noisy latents. Differentiable in ``x_t``.

        Args:
            addition: as ``output``.
        """
        network = self.network if network is None else network
        return self.as_prediction(self.output(network, x_t, t, text, addition), x_t, t)

    def as_prediction(self, output: Latents, x_t: Latents, t: Int[Tensor, "batch"]) -> Prediction:
        """A raw output of this family's network, with what is needed to read it."""
        return Prediction(output, self.prediction_type, x_t, self.schedule.alpha(t), self.schedule.sigma(t))
