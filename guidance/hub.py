"""Whether the model hub answers. Where it doesn't, its client would ask again and again for half a minute a file."""

from __future__ import annotations

import socket
from functools import cache
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants

SECONDS = 2.0  # to wait for an answer


@cache
def ask_hub_once() -> None:
    """Where the hub can't be reached, let its client use the cache alone, as HF_HUB_OFFLINE=1 does; once a process."""
    if not constants.HF_HUB_OFFLINE and not can_reach(constants.ENDPOINT):
        constants.HF_HUB_OFFLINE = True


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
