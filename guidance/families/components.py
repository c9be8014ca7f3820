"""Loading the parts of a diffusers pipeline, each from its own subfolder."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from guidance.families.single_file import load_from_file, require_package
from guidance.model_files import ModelFiles
from guidance.weights import load_whole

REMEDY = "fetch the model again or save the whole pipeline"
HALF = "fp16"  # in the names of a variant's files
# The packages that read quantised weights, by what config.json says of them.
QUANTIZERS = {"bitsandbytes": "bitsandbytes", "torchao": "torchao", "gguf": "gguf"}


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


def require_components(files: ModelFiles, index: dict[str, Any], names: tuple[str, ...]) -> None:
    """Check before anything large is read that every part is listed, and lies in the folder if it is one.

    Raises:
        FileNotFoundError: a part is missing.
    """
    for name in names:
        listed = is_listed(index, name)
        if not listed or (files.folder is not None and not (files.folder / name).is_dir()):
            where = f"the folder {str(Path(files.place) / name)!r}" if listed else "its entry in model_index.json"
            raise FileNotFoundError(
                f"prior: the model {str(files.place)!r} lacks the component {name!r}: {where} is missing; "
                f"needed are {', '.join(names)}; {REMEDY}"
            )


class _Config(ConfigMixin):
    """Reads the ``config.json`` of a network of either library."""

    config_name = "config.json"


def component_config(files: ModelFiles, name: str) -> dict[str, Any]:
    """The ``config.json`` of a network.

    Raises:
        OSError: it is missing, or cannot be fetched.
    """
    return _Config.load_config(files.place, subfolder=name, revision=files.revision)


def load_component(
    component: type,
    files: ModelFiles,
    name: str,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """One part of a model, with errors that name it.

    Weights that are there as a variant fp16 alone are taken. A network that the single file lacks comes from the place
    of its configuration, with a warning.

    Args:
        device: "meta" builds a network from its configuration, as shapes alone; no weight is read. On others the
            caller puts it there.
        dtype: of a network's weights.

    Raises:
        FileNotFoundError: a file is absent or cannot be fetched.
        ValueError: a file is there, but cannot be read, is of another network, or lacks a weight.
    """
    is_network, is_quantized = issubclass(component, (ModelMixin, PreTrainedModel)), False
    try:
        if is_network:
            config = component_config(files, name)
            _check_class(component, config, files, name)
            if device is not None and device.type == "meta":
                return _outline(component, config, files, name, dtype)
            is_quantized = _require_quantizer(config, files, name)
        if is_network and files.file is not None:
            network = load_from_file(component, files, name, dtype)
            if network is not None:
                return network
            warnings.warn(f"prior: {files.file.name} has no {name}; that of {str(files.place)!r} is used", stacklevel=2)
        if not is_network:
            return component.from_pretrained(files.place, subfolder=name, revision=files.revision)
        return _load_any_variant(component, files, name, dtype)
    except (RuntimeError, ImportError) as error:
        if not is_quantized:
            raise
        raise ValueError(
            f"prior: the weights of {name!r} in {str(files)!r} are quantised, and cannot be loaded here: {error}"
        ) from error
    except (OSError, SafetensorError) as error:
        if any(isinstance(cause, SafetensorError) for cause in _causes(error)):
            raise ValueError(f"prior: the weights of {name!r} in {str(files)!r} are broken; {REMEDY}") from error
        reason = str(error).splitlines()[0].rstrip(". ")
        raise FileNotFoundError(f"prior: {name!r} of {str(files)!r} cannot be loaded: {reason}; {REMEDY}") from error


def _load_any_variant(component: type, files: ModelFiles, name: str, dtype: torch.dtype) -> nn.Module:
    """The weights under their plain names, else the variant fp16."""
    number_format = {"torch_dtype" if issubclass(component, ModelMixin) else "dtype": dtype}
    missing = None
    for variant in (None, HALF):
        try:
            return load_whole(
                component,
                files.place,
                "prior",
                subfolder=name,
                revision=files.revision,
                variant=variant,
                **number_format,
            )
        except OSError as error:
            missing = missing or error
    assert missing is not None
    raise missing


def _require_quantizer(config: dict[str, Any], files: ModelFiles, name: str) -> bool:
    """Whether the weights are quantised; then checks for the package that reads them.

    Raises:
        ValueError: it isn't installed, or isn't known.
    """
    method = config.get("quantization_config", {}).get("quant_method")
    if method is None:
        return False
    if method not in QUANTIZERS:
        raise ValueError(
            f"prior: the weights of {name!r} in {str(files)!r} are quantised by {method!r}; read are "
            f"{', '.join(QUANTIZERS)}; use weights of one of these kinds, or plain ones"
        )
    require_package(QUANTIZERS[method], f"the weights of {name!r} in {str(files)!r} are quantised")
    return True


def _outline(
    component: type[ModelMixin] | type[PreTrainedModel],
    config: dict[str, Any],
    files: ModelFiles,
    name: str,
    dtype: torch.dtype,
) -> nn.Module:
    """The network on the meta device."""
    with torch.device("meta"):
        if issubclass(component, ModelMixin):
            network = component.from_config(config)
        else:
            known = component.config_class.from_pretrained(files.place, subfolder=name, revision=files.revision)
            network = component(known)
    nn.Module.to(network, dtype)  # not diffusers' own, which warns of rounding weights
    if dtype == torch.float16:  # as transformers does: T5's layers of that name would overflow
        kept = getattr(network, "_keep_in_fp32_modules", None) or ()
        for path, parameter in network.named_parameters():
            if not set(kept).isdisjoint(path.split(".")):
                parameter.data = parameter.data.float()
    return network


def _check_class(component: type, config: dict[str, Any], files: ModelFiles, name: str) -> None:
    """Diffusers would build its class from another's config, with random weights where names differ."""
    found = config.get("_class_name", component.__name__)
    if found != component.__name__:
        raise ValueError(
            f"prior: {name!r} of {str(files)!r} is a {found}, this family needs a {component.__name__}; "
            "model_index.json and the folder do not belong together: fetch the model again"
        )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that it was raised while handling."""
    while error is not None:
        yield error
        error = error.__context__
