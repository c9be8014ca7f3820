"""The frozen model that a configuration names: its place, number format, memory, and the prompt's embeddings."""

from __future__ import annotations

from pathlib import Path

import torch

from configs.schema import RunConfig
from guidance.building import load_model
from guidance.frozen_model import FrozenModel
from guidance.loading import half_format, views_together
from guidance.memory import PlannedRun, preflight
from guidance.model_files import Lora, ModelFiles
from guidance.prompts import PromptEmbeddings, embed_prompt
from runs.devices import chosen_precision

REPOSITORY = Path(__file__).resolve().parents[1]
BUNDLED = "priors"  # folder of the bundled priors in the repository


def build_prior(config: RunConfig, device: torch.device) -> FrozenModel:
    """The frozen model that the loss needs, on the device and in the precision that it will run in."""
    return load_model(config.guidance, model_files(config), device, prior_dtype(config, device))


def check_views(config: RunConfig) -> None:
    """Compare ``render.views`` and ``prior.views`` with the views of an object that the model sees at once.

    Reads the model's index alone.

    Raises:
        FileNotFoundError, ValueError: there is no such model, or its views don't go with the configuration.
    """
    if config.guidance.reads == "images":
        return
    together, wanted = views_together(model_files(config)), config.prior.views
    if wanted is not None and wanted != together:
        kind = "one view" if together == 1 else f"{together} views"
        raise ValueError(
            f"prior: the preset {config.prior.preset!r} is for a model that sees {wanted} views of an object at once, "
            f"and {config.prior.path!r} sees {kind}; use another preset, or another prior.path"
        )
    if config.stage == "image" and together > 1:
        raise ValueError("prior: a picture has no views; the stage image needs a prior that sees one view at a time")
    if config.render.views % together:
        raise ValueError(
            f"render.views: {config.render.views} is no multiple of the {together} views of an object that this prior "
            f"sees at once; set render.views={-(-config.render.views // together) * together}"
        )


def model_files(config: RunConfig) -> ModelFiles:
    """Where that model lies, and what is added to it; raises as ``find_prior``."""
    model = config.guidance.frozen_model(config.prior.path)
    path = find_prior(model.path, model.field)
    if config.guidance.reads == "images":
        return ModelFiles(path)
    prior = config.prior
    loras = tuple(Lora.read(text) for text in prior.loras)
    embeddings = tuple(Path(path).expanduser() for path in prior.embeddings)
    return ModelFiles(path, prior.revision, prior.config and find_prior(prior.config), loras, embeddings)


def prior_dtype(config: RunConfig, device: torch.device) -> torch.dtype:
    """The number format of the frozen weights."""
    wanted = config.prior.precision
    if wanted != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]
    if device.type != "cuda" or config.guidance.reads == "images":
        return torch.float32
    return torch.float16 if chosen_precision(config.trainer) == "16-mixed" else half_format(model_files(config))


def too_little_memory(config: RunConfig, device: torch.device) -> str | None:
    """A line where the guidance alone will need more memory than there is, before any of it is taken."""
    run = PlannedRun(
        model_files(config),
        device,
        prior_dtype(config, device),
        config.prompt,
        config.text,
        config.guidance,
        config.estimator,
        config.render.views,
    )
    return preflight(run)


def build_prompts(config: RunConfig, prior: FrozenModel) -> PromptEmbeddings:
    """The prompt's embeddings."""
    return embed_prompt(prior, config.prompt, config.text, config.guidance.further_texts)


def find_prior(path: str, field: str = "prior") -> str:
    """The path itself, or for a bundled model the one in the repository; hub ids pass through.

    Raises:
        FileNotFoundError: a bundled model that is not there, which would otherwise be taken for a hub id.
    """
    if Path(path).expanduser().exists() or Path(path).parts[:1] != (BUNDLED,):
        return path
    bundled = REPOSITORY / path
    if not bundled.is_dir():
        found = sorted(sums.parent.name for sums in (REPOSITORY / BUNDLED).glob("*/checksums.json"))
        raise FileNotFoundError(
            f"{field}: {path!r} is neither in the current folder nor in {REPOSITORY}; bundled are "
            f"{', '.join(found) or 'none'}; give one of them, a model's folder or a hub id"
        )
    return str(bundled)
