"""CLIP guidance: move renders towards a text in the space of an image-text model.

Jain et al. 2021 (Dream Fields, arXiv 2112.01455): the loss -cos(image, text) of each view
(``losses.clip``), beside the transmittance loss of ``systems/regularizers.py``. There is no noise to draw and no
estimator to train.
"""

from __future__ import annotations

import torch

from guidance import gradients
from guidance.config import GuidanceConfig
from guidance.frozen_model import Images
from guidance.image_text import ImageTextModel
from guidance.interface import Guidance, GuidanceOutput
from guidance.prompts import PromptEmbeddings
from renderers.cameras import Cameras


class ClipGuidance(Guidance):
    """A frozen image-text model, and a loss of its features."""

    model: ImageTextModel

    def __init__(self, model: ImageTextModel, config: GuidanceConfig) -> None:
        super().__init__()
        self.model = model
        self.estimator = None
        self.latent_shape = ()
        self.config = config
        self.loss = config.declaration

    def encode(self, images: Images) -> Images:
        """The images themselves."""
        return images.float()

    def decode(self, latents: Images) -> Images:
        """The images themselves."""
        return latents

    def gradient(
        self,
        latents: Images,
        prompts: PromptEmbeddings,
        cameras: Cameras,
        t_range: tuple[float, float],
        generator: torch.Generator,
    ) -> GuidanceOutput:
        """The gradient of ``guidance_scale`` times the loss at the images.

        ``t_range`` and ``generator`` are not used: nothing here is noisy.
        """
        texts = prompts.for_cameras(cameras)
        images = latents.detach().requires_grad_()
        # Without autocast: all is float32, and no loss scale protects a gradient that is taken here.
        with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
            features = self.model.encode_images(images)
            loss = self.loss.function(features, texts.conditional.tokens[:, 0], texts.unconditional.tokens[:, 0])
            (gradient,) = torch.autograd.grad(self.config.guidance_scale * loss.sum(), images)
        gradient = gradients.limit_rms(gradient, self.config.max_gradient_rms)
        figures = {f"loss/{self.loss.name}": loss.detach().mean(), "grad/images": gradients.rms(gradient).mean()}
        return GuidanceOutput(gradient, figures)
