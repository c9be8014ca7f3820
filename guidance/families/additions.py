"""What users add to a frozen model: LoRA files for its networks, and textual inversions for its texts.

LoRA weights are fused into the frozen ones, W + scale * B A, so that a network is as fast as before and the estimator's
own LoRA starts from the changed model.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE, fuse_text_encoder_lora
from diffusers.utils.peft_utils import recurse_remove_peft_layers
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from guidance.families.components import component_config
from guidance.hub import ask_hub_once
from guidance.model_files import Lora, ModelFiles
from guidance.weights import quiet_libraries

_FIRST_FACTOR = ("lora_A.weight", ".down.weight")  # ends of the names of A, of which each layer has one


def fuse_loras(network: nn.Module, name: str, files: ModelFiles, loader: Any, parts: tuple[str, ...]) -> None:
    """Add all LoRA files to one network, in place.

    Args:
        name: of the network among the model's parts.
        loader: diffusers' mixin for the family, which knows the formats of its LoRA files.
        parts: the networks that a LoRA file of the family can change.

    Raises:
        ValueError: a file cannot be read, or is of another family of models.
    """
    if not files.loras:
        return
    from peft.tuners.tuners_utils import BaseTunerLayer  # here, because it takes seconds to import

    for number, lora in enumerate(files.loras):
        changes = read_lora(lora, files, loader, parts)
        own = {key: value for key, value in changes.weights.items() if key.startswith(f"{name}.")}
        if not own:
            continue
        if getattr(network, "hf_quantizer", None) is not None:
            raise ValueError(
                f"prior.loras: {lora.path} cannot be added to the quantised weights of {name!r}; use plain ones"
            )
        adapter = f"added_{number}"
        try:
            with quiet_libraries():
                _inject(network, name, replace(changes, weights=own), loader, adapter)
        except (ValueError, RuntimeError, KeyError) as error:
            raise _misfit(lora, name, f"{error}") from error
        layers = sum(key.endswith(_FIRST_FACTOR) for key in own)
        changed = sum(adapter in module.lora_A for module in network.modules() if isinstance(module, BaseTunerLayer))
        if changed != layers:
            raise _misfit(lora, name, f"{layers} layers in the file, {changed} of them in the network")
        _fuse(network, adapter, lora.scale)


@dataclass(frozen=True)
class LoraChanges:
    """What a LoRA file holds, under diffusers' names. Rank and alpha give the factor on its products."""

    weights: dict[str, Tensor]
    alphas: dict[str, float] | None  # of web UIs' files, for each layer
    metadata: dict[str, Any] | None  # peft's configuration, which newer files of diffusers have instead


def read_lora(lora: Lora, files: ModelFiles, loader: Any, parts: tuple[str, ...]) -> LoraChanges:
    """Read a LoRA file.

    Raises:
        ValueError: it cannot be read, or is for other parts than the family's.
    """
    if not Path(lora.path).exists():
        ask_hub_once()
    try:
        with quiet_libraries():
            place, options = _place(lora.path)
            if "unet" in parts:  # web UIs number the blocks of SDXL's UNet through
                options["unet_config"] = SimpleNamespace(**{"layers_per_block": 2, **component_config(files, "unet")})
            held = loader.lora_state_dict(place, return_alphas=True, return_lora_metadata=True, **options)
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
        raise ValueError(
            f"prior.loras: {lora.path} cannot be read as a LoRA of this prior's family ({reason}); give a file, a "
            "folder or a hub id of one, with :SCALE behind it if it isn't to count whole"
        ) from error
    weights, *alphas, metadata = held
    unknown = sorted({key.split(".")[0] for key in weights} - set(parts))
    if unknown or not weights:
        has = f"changes {', '.join(unknown)}" if unknown else "changes nothing"
        raise ValueError(
            f"prior.loras: {lora.path} {has}; a LoRA of this prior's family changes {', '.join(parts)}; give one that "
            "was trained for this model"
        )
    # Diffusers takes one of the two.
    return LoraChanges(weights, alphas[0] if alphas and not metadata else None, metadata or None)


def _place(given: str) -> tuple[str, dict[str, Any]]:
    """The folder, or hub id, and the file's name as an option where it is known: offline diffusers does not look."""
    path = Path(given)
    if path.is_dir():
        names = sorted(each.name for each in path.glob("*.safetensors"))
        name = LORA_WEIGHT_NAME_SAFE if LORA_WEIGHT_NAME_SAFE in names else names[0] if len(names) == 1 else None
        return str(path), {} if name is None else {"weight_name": name}
    return (str(path.parent), {"weight_name": path.name}) if path.is_file() else (given, {})


def _inject(network: Any, name: str, changes: LoraChanges, loader: Any, adapter: str) -> None:
    options = {"network_alphas": changes.alphas, "metadata": changes.metadata, "adapter_name": adapter, "prefix": name}
    if isinstance(network, PreTrainedModel):
        loader.load_lora_into_text_encoder(changes.weights, text_encoder=network, **options)
    else:
        network.load_lora_adapter(changes.weights, **options)


def _fuse(network: Any, adapter: str, scale: float) -> None:
    """Add the adapter's product to the weights, and take its layers out again."""
    if isinstance(network, PreTrainedModel):
        fuse_text_encoder_lora(network, lora_scale=scale, adapter_names=[adapter])
        recurse_remove_peft_layers(network)
        network._hf_peft_config_loaded = False
        if hasattr(network, "peft_config"):
            del network.peft_config
    else:
        network.fuse_lora(lora_scale=scale, adapter_names=[adapter])
        network.unload_lora()


def _misfit(lora: Lora, name: str, reason: str) -> ValueError:
    return ValueError(
        f"prior.loras: {lora.path} does not fit {name!r}: {' '.join(reason.split()):.200}; give one that was trained "
        "for this model"
    )


Embeddings = dict[str, Float[Tensor, "vectors width"]]


def read_inversions(files: ModelFiles) -> Embeddings:
    """The words of all textual inversions, with their vectors.

    Raises:
        ValueError: a file cannot be read, or is none.
    """
    found: Embeddings = {}
    for path in files.embeddings:
        word, vectors = _read_inversion(path)
        if word in found:
            raise ValueError(f"prior.embeddings: {path} has the word {word!r}, as another file has; rename the file")
        found[word] = vectors
    return found


def _read_inversion(path: Path) -> tuple[str, Tensor]:
    """Diffusers' files hold {word: vectors}; in those of web UIs the file's name is the word."""
    try:
        held = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # torch raises what the file's bytes lead to
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
        raise ValueError(
            f"prior.embeddings: {path} cannot be read ({reason}); give a textual inversion's file"
        ) from error
    if isinstance(held, dict) and "string_to_param" in held:
        held = {path.stem: held["string_to_param"].get("*")}
    if isinstance(held, dict) and "emb_params" in held:
        held = {path.stem: held["emb_params"]}
    value = next(iter(held.values())) if isinstance(held, dict) and len(held) == 1 else None
    if not isinstance(value, Tensor) or value.ndim > 2:
        raise ValueError(
            f"prior.embeddings: {path} is no textual inversion for one text encoder; those of Stable Diffusion 1.x and "
            "2.x are read"
        )
    return next(iter(held)), value.detach().reshape(-1, value.shape[-1]).float()


def tokens_of(word: str, count: int) -> list[str]:
    """The tokens of a word that has several vectors: diffusers' names."""
    return [word, *(f"{word}_{number}" for number in range(1, count))]


def with_words(tokenizer: PreTrainedTokenizerBase, embeddings: Embeddings) -> PreTrainedTokenizerBase:
    """A tokenizer that knows the words of textual inversions too.

    Raises:
        ValueError: it knows one of them already.
    """
    tokenizer = copy.deepcopy(tokenizer)
    for word, vectors in embeddings.items():
        if tokenizer.add_tokens(tokens_of(word, len(vectors))) != len(vectors):
            raise ValueError(f"prior.embeddings: the model has a token {word!r} already; rename the file")
    return tokenizer


def spelled_out(prompt: str, embeddings: Embeddings) -> str:
    """The prompt with all tokens of each word.

    >>> spelled_out("a <cat>", {"<cat>": torch.zeros(2, 4)})
    'a <cat> <cat>_1'
    """
    for word, vectors in embeddings.items():
        prompt = prompt.replace(word, " ".join(tokens_of(word, len(vectors))))
    return prompt


def add_inversions(encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, embeddings: Embeddings) -> None:
    """Give the encoder the vectors of the tokenizer's added words, in place.

    Raises:
        ValueError: they are of another width.
    """
    if not embeddings:
        return
    rows = max(len(tokenizer), encoder.get_input_embeddings().num_embeddings)
    encoder.resize_token_embeddings(rows, mean_resizing=False)  # no guess at values that are set below
    table = encoder.get_input_embeddings().weight
    for word, vectors in embeddings.items():
        if vectors.shape[-1] != table.shape[-1]:
            raise ValueError(
                f"prior.embeddings: the vectors of {word!r} are {vectors.shape[-1]} wide, the text encoder's "
                f"{table.shape[-1]}; give one that was trained for this model"
            )
        ids = tokenizer.convert_tokens_to_ids(tokens_of(word, len(vectors)))
        with torch.no_grad():
            table[ids] = vectors.to(table)
