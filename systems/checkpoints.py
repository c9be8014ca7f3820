"""Checkpoints: what they say about themselves, how they are written, and whether a run may go on from one.

A checkpoint is Lightning's dictionary (state dict of scene, occupancy and estimator; optimizers) and the
key ``run``, a plain form of `RunMetadata`. Frozen weights are in none. Files are read with
``weights_only``: a checkpoint from elsewhere can hold numbers, not code.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import nn

from configs.fields import run_policies
from configs.retired import without_retired
from configs.schema import RunConfig
from files.whole_files import whole_file
from models.stored_mesh import SizedByState
from settings.quoting import quoted
from systems.versions import versions

FORMAT = 1  # of the key ``run`` and of the state dict's names


@dataclass(frozen=True)
class RunMetadata:
    """Where a checkpoint comes from."""

    format: int
    stage: str
    iteration: int
    config: dict[str, Any]  # plain containers
    latent_shape: list[int]  # of the prior
    versions: dict[str, str]  # by package


def run_metadata(config: RunConfig, stage: str, iteration: int, latent_shape: tuple[int, ...]) -> RunMetadata:
    """The metadata of a checkpoint that is being written."""
    return RunMetadata(FORMAT, stage, iteration, plain(config), list(latent_shape), versions())


def plain(config: RunConfig) -> dict[str, Any]:
    """A configuration as dictionaries, lists, numbers and strings."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary name beside the file, then renames: a file of that name is always whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        # Into a stream: where PyTorch opens the file itself, the error of a full disk doesn't say what it is.
        with whole_file(path) as unfinished, open(unfinished, "wb") as stream:
            torch.save(checkpoint, stream)
            stream.flush()
            os.fsync(stream.fileno())  # whole before it gets its name, also where the power fails


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The checkpoint's dictionary; tensors stay on disk until they are used.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of this project, or cut off, or written by a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint: {str(path)!r} does not exist; checkpoints lie in <run>/checkpoints, the newest is last.ckpt"
        )
    remedy = "use an earlier file of the run's checkpoints folder"
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"checkpoint: {str(path)!r} cannot be read: it is cut off or no checkpoint ({reason[0]:.120}); {remedy}"
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("run"), dict):
        raise ValueError(f"checkpoint: {str(path)!r} was not written by this project: it has no key 'run'; {remedy}")
    if checkpoint["run"].get("format", 0) > FORMAT:
        raise ValueError(
            f"checkpoint: {str(path)!r} has format {checkpoint['run']['format']}, this version reads up to {FORMAT}; "
            f"update the project (the file was written with {checkpoint['run'].get('versions')})"
        )
    return checkpoint


def read_metadata(path: str | Path) -> RunMetadata:
    """What a checkpoint says about itself; raises as `read_checkpoint`."""
    run = read_checkpoint(path)["run"]
    missing = [field.name for field in dataclasses.fields(RunMetadata) if field.name not in run]
    if missing:
        raise ValueError(f"checkpoint: {str(path)!r} lacks {', '.join(missing)} under the key 'run'; start a new run")
    return RunMetadata(**{field.name: run[field.name] for field in dataclasses.fields(RunMetadata)})


def check_same_run(path: str | Path, metadata: RunMetadata, config: RunConfig) -> None:
    """Raise a ValueError if a field differs that a checkpoint's tensors depend on (``Policy.state``)."""
    if metadata.stage != config.stage:
        raise ValueError(
            f"checkpoint: {str(path)!r} is of stage {metadata.stage!r}, this run is of stage {config.stage!r}; "
            "use a checkpoint of the same stage"
        )
    theirs, ours, defaults = without_retired(metadata.config, str(path)), plain(config), plain(RunConfig())
    compared = [
        (key, _field(theirs, key, defaults), _field(ours, key, defaults))
        for key, policy in run_policies().items()
        # An older configuration may lack a whole section.
        if policy.state and _field(theirs, key.partition(".")[0]) is not None
    ]
    lines = [
        f"{key} is {quoted(there)} there and {quoted(here)} here" for key, there, here in compared if there != here
    ]
    if lines:
        raise ValueError(
            f"checkpoint: {str(path)!r} is of another configuration: {'; '.join(lines)}; "
            "set these fields as in the checkpoint, or start a new run"
        )


def check_same_prior(path: str | Path, metadata: RunMetadata, latent_shape: tuple[int, ...]) -> None:
    """Raise a ValueError if the checkpoint's prior has other latents."""
    if metadata.latent_shape != list(latent_shape):
        theirs = _field(metadata.config, "prior.path")
        raise ValueError(
            f"checkpoint: {str(path)!r} was trained with the prior {theirs!r}, whose latents are "
            f"{metadata.latent_shape}; this run's prior has latents {list(latent_shape)}; use prior.path={theirs}"
        )


def check_state(path: str | Path, state: dict[str, torch.Tensor], module: nn.Module) -> None:
    """Raise a ValueError unless the state fits the module, name by name and shape by shape."""
    own = module.state_dict()
    sized_by_state = {
        f"{place}.{name}"
        for place, part in module.named_modules()
        if isinstance(part, SizedByState)
        for name in part.sized_by_state
    }
    wrong = [f"{name} is missing" for name in own if name not in state]
    wrong += [f"{name} is unknown here" for name in state if name not in own]
    wrong += [
        f"{name} has shape {list(state[name].shape)}, here {list(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and name not in sized_by_state and state[name].shape != tensor.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"checkpoint: {str(path)!r} does not fit this run's networks: {'; '.join(wrong[:3])}{more}; "
            "use the prior and the configuration that it was trained with"
        )


def _field(config: dict[str, Any], name: str, older: dict[str, Any] | None = None) -> Any:
    """A field by its dotted name.

    A configuration that was written before the field existed lacks it, and means what ``older`` says: a new field's
    default is what runs did before. Without ``older``: None.
    """
    found: Any = config
    for part in name.split("."):
        if not isinstance(found, dict) or part not in found:
            return None if older is None else _field(older, name)
        found = found[part]
    return found
