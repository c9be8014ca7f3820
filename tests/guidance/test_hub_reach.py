from __future__ import annotations

import os
import socket
import subprocess
import sys
from threading import Event

import pytest
from huggingface_hub import constants

from guidance import hub
from tests.repository import REPOSITORY


@pytest.fixture
def endpoint(monkeypatch):
    """Says where the hub is to be looked for; nobody has asked yet."""
    hub.ask_hub_once.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield lambda address: monkeypatch.setattr(constants, "ENDPOINT", address)
    hub.ask_hub_once.cache_clear()


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def test_a_hub_that_answers_is_asked(endpoint, listening) -> None:
    endpoint(listening)
    hub.ask_hub_once()
    assert not constants.HF_HUB_OFFLINE


def test_without_a_network_the_client_uses_its_cache(endpoint, closed) -> None:
    endpoint(closed)
    hub.ask_hub_once()
    assert constants.HF_HUB_OFFLINE


def test_a_model_that_is_not_here_is_told_before_anything_is_imported(tmp_path) -> None:
    """PyTorch above all; a path that exists is none, whatever it looks like."""
    (tmp_path / "owner" / "folder").mkdir(parents=True)
    program = (
        "import sys; from guidance.hub import check_hub_id\n"
        "check_hub_id('owner/folder'); check_hub_id('./no/id')\n"
        "try: check_hub_id('owner/name')\n"
        "except FileNotFoundError as error: print(error, 'torch' in sys.modules)"
    )
    variables = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True, check=True)
    assert "'owner/name' is not in the local cache, and the hub cannot be reached" in said.stdout
    assert said.stdout.endswith("False\n")


def test_a_name_that_nobody_knows_is_not_waited_for(endpoint, monkeypatch) -> None:
    def forever(*_args: object) -> None:
        released.wait()

    released = Event()
    monkeypatch.setattr(socket, "create_connection", forever)
    assert not hub.can_reach("https://hub.invalid", seconds=0.05)
    released.set()


def test_behind_a_proxy_the_proxy_is_asked(endpoint, monkeypatch, listening, closed) -> None:
    monkeypatch.setenv("http_proxy", listening)
    monkeypatch.setenv("no_proxy", "elsewhere")
    assert hub.can_reach("http://hub.invalid")
    monkeypatch.setenv("http_proxy", closed)
    assert not hub.can_reach("http://hub.invalid")
