"""Loading the parts of a diffusers pipeline, each from its own subfolder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from guidance.weights import load_whole


def read_object(path: Path, remedy: str = "fetch the model again") -> dict[str, Any]:
    """A JSON file of a model, such as ``model_index.json``.

    Raises:
        ValueError: it is no JSON, or holds no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"prior: {path} is not valid JSON ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise ValueError(f"prior: {path} holds a {type(content).__name__}, not an object; {remedy}")
    return content


def is_listed(index: dict[str, Any], name: str) -> bool:
    """Whether the model comes with a part; ``[null, null]`` stands for one that was left out."""
    entry = index.get(name)
    return isinstance(entry, list) and entry[-1] is not None


def require_components(source: Path | str, index: dict[str, Any], names: tuple[str, ...]) -> None:
    """Check before anything large is read that every part is listed, and lies in the folder if it is one.

    Raises:
        FileNotFoundError: a part is missing.
    """
    for name in names:
        listed = is_listed(index, name)
        if not listed or (isinstance(source, Path) and not (source / name).is_dir()):
            where = f"the folder {str(source / name)!r}" if listed else "its entry in model_index.json"
            raise FileNotFoundError(
                f"prior: the model {str(source)!r} lacks the component {name!r}: {where} is missing; "
                f"needed are {', '.join(names)}; fetch the model again or save the whole pipeline"
            )


def load_component(
    component: type, source: Path | str, name: str, device: torch.device | None = None, **kwargs: Any
) -> Any:
    """``component.from_pretrained`` on one subfolder, with errors that name it.

    Args:
        device: "meta" builds a network from its configuration, as shapes alone; no weight is read. On others the
            caller puts it there.

    Raises:
        FileNotFoundError: a file is absent or cannot be fetched.
        ValueError: a file is there, but cannot be read, is of another network, or lacks a weight.
    """
    remedy = "fetch the model again or save the whole pipeline"
    try:
        if issubclass(component, ModelMixin):
            _check_class(component, source, name)
        if device is not None and device.type == "meta":
            return _outline(component, source, name, **kwargs)
        if issubclass(component, (ModelMixin, PreTrainedModel)):
            return load_whole(component, source, "prior", subfolder=name, **kwargs)
        return component.from_pretrained(source, subfolder=name, **kwargs)
    except (OSError, SafetensorError) as error:
        if any(isinstance(cause, SafetensorError) for cause in _causes(error)):
            raise ValueError(f"prior: the weights of {name!r} in {str(source)!r} are broken; {remedy}") from error
        reason = str(error).splitlines()[0].rstrip(". ")
        raise FileNotFoundError(f"prior: {name!r} of {str(source)!r} cannot be loaded: {reason}; {remedy}") from error


def _outline(
    component: type[ModelMixin] | type[PreTrainedModel],
    source: Path | str,
    name: str,
    dtype: torch.dtype = torch.float32,
    torch_dtype: torch.dtype | None = None,
) -> nn.Module:
    """The network on the meta device. (Diffusers and transformers name the number format differently.)"""
    with torch.device("meta"):
        if issubclass(component, ModelMixin):
            network = component.from_config(component.load_config(source, subfolder=name))
        else:
            network = component(component.config_class.from_pretrained(source, subfolder=name))
    dtype = torch_dtype or dtype
    nn.Module.to(network, dtype)  # not diffusers' own, which warns of rounding weights
    if dtype == torch.float16:  # as transformers does: T5's layers of that name would overflow
        kept = getattr(network, "_keep_in_fp32_modules", None) or ()
        for path, parameter in network.named_parameters():
            if not set(kept).isdisjoint(path.split(".")):
                parameter.data = parameter.data.float()
    return network


def _check_class(component: type[ModelMixin], source: Path | str, name: str) -> None:
    """Diffusers would build its class from another's config, with random weights where names differ."""
    found = component.load_config(source, subfolder=name).get("_class_name", component.__name__)
    if found != component.__name__:
        raise ValueError(
            f"prior: {name!r} of {str(source)!r} is a {found}, this family needs a {component.__name__}; "
            "model_index.json and the folder do not belong together: fetch the model again"
        )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that it was raised while handling."""
    while error is not None:
        yield error
        error = error.__context__
