"""CLIP guidance: pull renders towards a text in the space of an image-text model.

Jain et al. 2021 (Dream Fields, arXiv 2112.01455): the loss -cos(image, text) of each view
(``losses.clip_loss``), beside the transmittance loss of ``systems/regularizers.py``. It has the face of
``guidance.vsd.ScoreDistillation``, so that the same loop runs both; what it looks at are images instead of
latents, there is no noise to draw and no estimator to train.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from guidance import losses
from guidance.config import GuidanceConfig
from guidance.image_text import ImageTextModel
from guidance.prior import Images
from guidance.prompts import PromptEmbeddings
from renderers.cameras import Cameras


@dataclass(frozen=True)
class ClipOutput:
    """One step's result, detached."""

    gradient: Images  # dL/dimages of each sample; give it to ``losses.as_loss``
    loss: Float[Tensor, "batch"]  # before ``guidance_scale``
    estimator_loss: None = None

    @property
    def figures(self) -> dict[str, Tensor]:
        """What is worth logging, by name."""
        return {"loss/clip": self.loss.mean(), "grad/images": losses.rms(self.gradient).mean()}


class ClipGuidance(nn.Module):
    """A frozen image-text model."""

    estimator = None
    latent_shape = ()  # there are no latents

    def __init__(self, model: ImageTextModel, config: GuidanceConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    @property
    def image_size(self) -> int:
        """Pixels a side of the images that ``encode`` takes."""
        return self.model.image_size

    def encode(self, images: Images) -> Images:
        """What ``scene_gradient`` looks at: the images themselves."""
        return images.float()

    def scene_gradient(
        self,
        images: Images,
        prompts: PromptEmbeddings,
        cameras: Cameras,
        t_range: tuple[float, float],
        generator: torch.Generator,
    ) -> ClipOutput:
        """The gradient of s (-cos(image, text) + cos(image, negative)) at the images, with s = ``guidance_scale``.

        ``t_range`` and ``generator`` are the other guidance's: nothing here is noisy.
        """
        texts = prompts.for_cameras(cameras)
        images = images.detach().requires_grad_()
        # Without autocast: all is float32, and no loss scale protects a gradient that is taken here.
        with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
            features = self.model.encode_images(images)
            loss = losses.clip_loss(features, texts.conditional.tokens[:, 0], texts.unconditional.tokens[:, 0])
            (gradient,) = torch.autograd.grad(self.config.guidance_scale * loss.sum(), images)
        return ClipOutput(losses.clip_gradient(gradient, self.config.max_gradient_rms), loss.detach())
