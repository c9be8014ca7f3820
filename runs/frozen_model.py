"""The frozen model that a configuration names: its place, number format, memory, and the prompt's embeddings."""

from __future__ import annotations

from pathlib import Path

import torch

from configs.schema import RunConfig
from guidance.image_text import ImageTextModel, load_image_text_model
from guidance.loading import load_prior
from guidance.memory import device_memory, estimate_run, preflight_line
from guidance.prior import DiffusionPrior
from guidance.prompts import PromptEmbeddings, embed_prompt
from runs.devices import chosen_precision

REPOSITORY = Path(__file__).resolve().parents[1]
BUNDLED = "priors"  # folder of the bundled priors in the repository
FLOW_PRESETS = ("sd35", "flux")


def build_prior(config: RunConfig, device: torch.device) -> DiffusionPrior | ImageTextModel:
    """The frozen model that pulls, on the device and in the precision that it will run in."""
    if config.guidance.works_on_images:
        return load_image_text_model(find_prior(config.guidance.clip_model, "guidance.clip_model"), device)
    return load_prior(find_prior(config.prior.path), device, prior_dtype(config, device))


def prior_dtype(config: RunConfig, device: torch.device) -> torch.dtype:
    """The number format of the frozen weights."""
    wanted = config.prior.precision
    if wanted == "auto":
        on_cuda = "fp16" if chosen_precision(config.trainer) == "16-mixed" else "bf16"
        wanted = on_cuda if device.type == "cuda" else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]


def preflight(config: RunConfig, device: torch.device) -> str:
    """How much memory the guidance will need, before any of it is taken."""
    try:
        estimate = estimate_run(
            find_prior(config.prior.path),
            device,
            prior_dtype(config, device),
            config.prompt,
            config.text,
            config.guidance,
            config.estimator,
            config.render.views,
        )
    except RuntimeError as error:  # an operation that meta tensors lack is no reason to stop
        reason = " ".join(str(error).split())
        return f"no estimate ({reason:.100})"
    return preflight_line(estimate, device_memory(device))


def build_prompts(config: RunConfig, prior: DiffusionPrior | ImageTextModel) -> PromptEmbeddings:
    """The prompt's embeddings."""
    return embed_prompt(prior, config.prompt, config.text, config.guidance.low_quality)


def find_prior(path: str, field: str = "prior") -> str:
    """The path itself, or for a bundled model the one in the repository; hub ids pass through.

    Raises:
        FileNotFoundError: a bundled model that is not there, which would otherwise be taken for a hub id.
    """
    if Path(path).expanduser().is_dir() or Path(path).parts[:1] != (BUNDLED,):
        return path
    bundled = REPOSITORY / path
    if not bundled.is_dir():
        found = sorted(sums.parent.name for sums in (REPOSITORY / BUNDLED).glob("*/checksums.json"))
        raise FileNotFoundError(
            f"{field}: {path!r} is neither in the current folder nor in {REPOSITORY}; bundled are "
            f"{', '.join(found) or 'none'}; give one of them, a model's folder or a hub id"
        )
    return str(bundled)


def preset_remark(config: RunConfig, prior: DiffusionPrior | ImageTextModel) -> str | None:
    """A sentence where the model learnt a flow and the preset is for the other kind of model."""
    if config.guidance.works_on_images or config.prior.preset in FLOW_PRESETS:
        return None
    if prior.prediction_type != "flow":
        return None
    fitting = getattr(prior, "preset", None)
    remedy = f"prior={fitting} prior.path={config.prior.path} brings" if fitting else "prior=sd35 and prior=flux bring"
    return (
        f"this model learnt a flow, but where nothing else is stated noise range and guidance scale are those of the "
        f"preset {config.prior.preset!r}, which are for models like Stable Diffusion 2.1; {remedy} those of a flow"
    )
