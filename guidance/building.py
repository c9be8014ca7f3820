"""From a configuration to the frozen model that it needs, and to the guidance around it."""

from __future__ import annotations

import torch

from guidance.clip import ClipGuidance
from guidance.config import EstimatorConfig, GuidanceConfig
from guidance.estimator import LoraEstimator
from guidance.families.flow import FlowTransformerPrior
from guidance.families.registry import FAMILIES
from guidance.frozen_model import FrozenModel
from guidance.image_text import ImageTextModel, load_image_text_model
from guidance.interface import Guidance
from guidance.loading import load_prior
from guidance.model_files import ModelFiles
from guidance.prior import DiffusionPrior
from guidance.score_distillation import ScoreDistillation


def load_model(config: GuidanceConfig, files: ModelFiles, device: torch.device, dtype: torch.dtype) -> FrozenModel:
    """The frozen model that the loss needs.

    Args:
        dtype: of a diffusion prior's weights; an image-text model is float32.

    Raises:
        FileNotFoundError, ValueError: as ``load_prior`` and ``load_image_text_model``.
    """
    if config.reads == "images":
        return load_image_text_model(str(files), device)
    return load_prior(files, device, dtype)


def build_guidance(
    model: FrozenModel, config: GuidanceConfig, estimator: EstimatorConfig, generator: torch.Generator
) -> Guidance:
    """With an estimator, initialised by the generator, where the loss trains one.

    Raises:
        ValueError: the loss needs the other kind of model.
    """
    needed, kind = {
        "latents": ("a diffusion prior", DiffusionPrior),
        "images": ("an image-text model (a CLIP)", ImageTextModel),
    }[config.reads]
    if not isinstance(model, kind):
        raise ValueError(f"loss: {config.loss!r} needs {needed}, received {type(model).__name__}")
    if config.reads == "images":
        return ClipGuidance(model, config)
    trained = LoraEstimator(model, estimator, generator) if config.trains_estimator else None
    return ScoreDistillation(model, trained, config)


def preset_remark(model: FrozenModel, preset: str, path: str) -> str | None:
    """A sentence where the model learnt a flow and the preset (of configs/prior) is for the other kind of model."""
    flows = {family.preset for family in FAMILIES.values() if issubclass(family, FlowTransformerPrior)}
    if not isinstance(model, FlowTransformerPrior) or preset in flows:
        return None
    return (
        f"this model learnt a flow, but where nothing else is stated noise range and guidance scale are those of the "
        f"preset {preset!r}, which are for models like Stable Diffusion 2.1; prior={model.preset} prior.path={path} "
        "brings those of a flow"
    )
