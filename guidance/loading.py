"""From a folder, a single file or a hub id to a ``DiffusionPrior``: ``model_index.json`` tells the family.

Nothing is guessed or repaired: what is missing, altered, gated or of the wrong kind gives one error
that says what was found and what to do.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from files.checksums import verify_checksums
from guidance.families import flux, multiview, mvdream, sd3, sdxl, stable_diffusion  # noqa: F401  # each registers its family
from guidance.families.components import read_object
from guidance.families.registry import FAMILIES
from guidance.families.single_file import likely_config
from guidance.hub import INDEX_FILE, KNOWN_IDS, WORKING_ID, ask_hub_once, not_here
from guidance.model_files import ModelFiles
from guidance.prior import DiffusionPrior

# Words in the names of pipelines that need more than a text.
_OTHER_KINDS = {
    "an image-to-image or inpainting": (
        "Inpaint",
        "Img2Img",
        "ImageToImage",
        "Pix2Pix",
        "Upscale",
        "Depth2Img",
        "Fill",
        "Kontext",
        "Redux",
    ),
    "a ControlNet": ("Control",),
}


def load_prior(
    model: str | Path | ModelFiles, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> DiffusionPrior:
    """Load a text-to-image model of a known family, frozen, on ``device`` and in ``dtype``.

    Args:
        model: a folder, a single file or a hub id, or one of them with what is added to it.
        device: that it will run on: the attention kernel is chosen for it.

    Raises:
        FileNotFoundError: no such folder, id or component; a gated id; no network.
        ValueError: a model of another kind or family, or files that are not what their checksums say.
    """
    files, index, family = _find(model)
    if isinstance(files.path, Path) and files.file is None:
        verify_checksums(files.path)
    return family.load(files, index, torch.device(device), dtype)


def outline_prior(model: str | Path | ModelFiles, dtype: torch.dtype = torch.float32) -> DiffusionPrior:
    """The same prior as shapes alone, on the meta device; raises as `load_prior`."""
    files, index, family = _find(model)
    return family.load(files, index, torch.device("meta"), dtype)


def half_format(model: str | Path | ModelFiles) -> torch.dtype:
    """The number format of its weights on a GPU; raises as `load_prior`, and reads no weights."""
    return _find(model)[2].half_format


def views_together(model: str | Path | ModelFiles) -> int:
    """How many views of one object the model sees at once; raises as `load_prior`, and reads no weights."""
    files, index, family = _find(model)
    return family.views_of(files, index)


def _find(model: str | Path | ModelFiles) -> tuple[ModelFiles, dict[str, Any], type[DiffusionPrior]]:
    """The model with its place, its index, and its family."""
    files = ModelFiles.at(model)
    if files.file is not None and files.config is None:
        files = replace(files, config=likely_config(files.file))
        try:
            find_index(files.place)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"prior: {str(files)!r} has the layout of {files.place!r}, whose configuration and tokenizers are "
                f"needed and cannot be fetched; give a folder that has them: prior.config=FOLDER ({error})"
            ) from error
    index = read_object(find_index(files.place, files.revision))
    pipeline = index.get("_class_name")
    if pipeline not in FAMILIES:
        raise ValueError(
            f"prior: {str(files)!r} is {_kind_of(str(pipeline))} model ({pipeline}); "
            f"supported text-to-image pipelines are {', '.join(sorted(FAMILIES))}; try {WORKING_ID!r}"
        )
    family = FAMILIES[pipeline]
    _check_additions(files, family)
    return files, index, family


def _check_additions(files: ModelFiles, family: type[DiffusionPrior]) -> None:
    """Raises ValueError or FileNotFoundError where a setting does not go with the model, or names no file."""
    if files.revision is not None and not isinstance(files.path, str):
        raise ValueError(f"prior.revision: is for hub ids, and {str(files)!r} is a folder or file; leave it out")
    if files.config is not None and files.file is None:
        raise ValueError(f"prior.config: is for a model in one file, and {str(files)!r} is none; leave it out")
    if files.embeddings and not issubclass(family, stable_diffusion.StableDiffusionPrior):
        raise ValueError(
            "prior.embeddings: textual inversions are read for Stable Diffusion 1.x and 2.x, not for this family "
            f"({family.__name__}); leave them out"
        )
    for path in files.embeddings:
        if not path.is_file():
            raise FileNotFoundError(f"prior.embeddings: {path} is no file; give a textual inversion's file")


def find_index(path_or_id: str | Path, revision: str | None = None) -> Path:
    """The model's ``model_index.json``: in the folder, or fetched from the hub."""
    folder = Path(path_or_id).expanduser()
    if folder.is_dir():
        if not (folder / INDEX_FILE).is_file():
            raise FileNotFoundError(
                f"prior: the folder {str(folder)!r} is no diffusers model: it has no {INDEX_FILE}; "
                "point to the folder that `pipeline.save_pretrained(folder)` wrote"
            )
        return folder / INDEX_FILE
    name = str(path_or_id)
    if isinstance(path_or_id, Path) or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise FileNotFoundError(
            f"prior: {name!r} is neither an existing folder or file nor a hub id of the form owner/name; "
            f"give a folder with a {INDEX_FILE}, or an id such as {WORKING_ID!r}"
        )
    return _fetch_index(name, revision)


def _fetch_index(hub_id: str, revision: str | None) -> Path:
    remedy = f"use a local folder, or {KNOWN_IDS}"
    ask_hub_once()
    login = "log in with `hf auth login` if it is private or gated"
    try:
        return Path(hf_hub_download(hub_id, INDEX_FILE, revision=revision))
    except GatedRepoError as error:
        reason = f"is gated: accept its terms on https://huggingface.co/{hub_id}, then {login}"
        raise FileNotFoundError(f"prior: the hub id {hub_id!r} {reason}; or {remedy}") from error
    except RevisionNotFoundError as error:
        reason = f"has no revision {revision!r}; give a branch, a tag or a commit of it as prior.revision"
        raise FileNotFoundError(f"prior: the hub id {hub_id!r} {reason}") from error
    except RepositoryNotFoundError as error:
        reason = f"does not exist on the hub or is not yours to see; {login}"
        raise FileNotFoundError(f"prior: the hub id {hub_id!r} {reason}; or {remedy}") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError) as error:
        raise not_here(hub_id) from error
    except EntryNotFoundError as error:
        reason = f"is no diffusers pipeline: it has no {INDEX_FILE}"
        raise FileNotFoundError(f"prior: the hub id {hub_id!r} {reason}; {remedy}") from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise FileNotFoundError(f"prior: the hub refused the id {hub_id!r} ({error}); {remedy}") from error


def _kind_of(pipeline: str) -> str:
    """What sort of unsupported pipeline it is, as far as its name says."""
    return next((kind for kind, words in _OTHER_KINDS.items() if any(w in pipeline for w in words)), "an unsupported")
