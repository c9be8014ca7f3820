"""The interface between training and guidance: the systems use nothing else of a loss than this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from guidance.estimator import LoraEstimator
from guidance.frozen_model import FrozenModel, Images
from guidance.gradients import Scalar
from guidance.prompts import PromptEmbeddings
from guidance.schedule import Latents
from renderers.cameras import Cameras


@dataclass(frozen=True)
class GuidanceOutput:
    """One step's result. Everything is detached, save ``estimator_loss``."""

    gradient: Latents  # dL/dlatents of each sample; give it to ``gradients.as_loss``
    figures: Mapping[str, Tensor | float]  # to log, by name
    estimator_loss: Scalar | None = None  # with graph; where the pass of the score is also a training pass


class Guidance(nn.Module, ABC):
    """A frozen model and a loss: the gradient that moves renders towards a prompt.

    Its parameters are the estimator's. "Latents" are what the loss reads; a loss that reads images has the images
    themselves as latents.
    """

    model: FrozenModel
    estimator: LoraEstimator | None  # None: the loss trains none
    latent_shape: tuple[int, ...]  # (channels, height, width) of the model's latents; (): the loss reads images

    @property
    def image_size(self) -> int:
        """Pixels a side of the images that ``encode`` takes."""
        return self.model.image_size

    @property
    def views_together(self) -> int:
        """Views of one object that the model sees at once; a batch holds whole groups of them."""
        return self.model.views_together

    def describe(self) -> str:
        """The frozen model, in a line."""
        return self.model.describe()

    @abstractmethod
    def encode(self, images: Images) -> Latents:
        """Float32 latents of images in [0, 1]; differentiable."""

    @abstractmethod
    def decode(self, latents: Latents) -> Images:
        """Images in [0, 1] of latents."""

    @abstractmethod
    def gradient(
        self,
        latents: Latents,
        prompts: PromptEmbeddings,
        cameras: Cameras,
        t_range: tuple[float, float],
        generator: torch.Generator,
    ) -> GuidanceOutput:
        """The loss's gradient at the latents.

        Args:
            t_range: of the noise levels, as fractions of the schedule, in [0, 1].
            generator: of noise levels and noise.

        Raises:
            ValueError: ``t_range`` is inverted or leaves [0, 1].
        """

    def estimator_loss(
        self, latents: Latents, prompts: PromptEmbeddings, cameras: Cameras, generator: torch.Generator
    ) -> Scalar:
        """The loss that trains the estimator on renders. Only for a guidance with an ``estimator``."""
        raise NotImplementedError(f"{type(self).__name__} has no estimator to train")

    def samples(
        self, prompts: PromptEmbeddings, cameras: Cameras, steps: int, generator: torch.Generator
    ) -> list[Images]:
        """Pictures that the frozen model and the estimator draw from the same noise; [] if the model draws none.

        Args:
            steps: of the sampler.
        """
        return []

    def predictions(
        self,
        latents: Float[Tensor, "1 channels latent_height latent_width"],
        prompts: PromptEmbeddings,
        cameras: Cameras,
        levels: tuple[float, ...],
        generator: torch.Generator,
    ) -> list[Images]:
        """The x_0 that frozen model and estimator see in one render, by rising noise; [] if the model sees no noise.

        Args:
            latents: of the render.
            cameras: the render's camera.
            levels: fractions of the noise schedule.
        """
        return []
