"""The guidance that a configuration asks for, around a frozen model."""

from __future__ import annotations

import torch

from guidance.clip import ClipGuidance
from guidance.config import EstimatorConfig, GuidanceConfig
from guidance.estimator import LoraEstimator
from guidance.image_text import ImageTextModel
from guidance.prior import DiffusionPrior
from guidance.vsd import ScoreDistillation

Guidance = ScoreDistillation | ClipGuidance


def build_guidance(
    model: DiffusionPrior | ImageTextModel,
    config: GuidanceConfig,
    estimator: EstimatorConfig,
    generator: torch.Generator,
) -> Guidance:
    """With an estimator, initialised by the generator, where the loss trains one.

    Raises:
        ValueError: the loss needs the other kind of model.
    """
    if config.works_on_images != isinstance(model, ImageTextModel):
        needed = "an image-text model (a CLIP)" if config.works_on_images else "a diffusion prior"
        raise ValueError(f"loss: {config.loss!r} needs {needed}, received {type(model).__name__}")
    if isinstance(model, ImageTextModel):
        return ClipGuidance(model, config)
    trained = LoraEstimator(model, estimator, generator) if config.needs_estimator else None
    return ScoreDistillation(model, trained, config)
