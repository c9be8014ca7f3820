"""A folder of its own for each test of a run, and a stub in place of training."""

from __future__ import annotations

import json
import sys

import pytest

import runs
from runs.processes import FIRST_PROCESS_VARIABLE, RUN_FOLDER_VARIABLE
from tests.runs.stubs import STUB, module


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """What launching leaves behind for further processes ends with the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv(RUN_FOLDER_VARIABLE, "")
    monkeypatch.setenv(FIRST_PROCESS_VARIABLE, "")


@pytest.fixture
def run(monkeypatch):
    """The stub; ``run.check`` is what comes before training, ``run.behave`` what training does, ``run.found`` what the
    summary says."""
    nothing = lambda config, folder: None  # noqa: E731
    stub = module("runs.train", STUB, calls=[], check=nothing, behave=nothing, found={}, json=json)
    for name in ("train", "from_checkpoint"):
        monkeypatch.setitem(sys.modules, f"runs.{name}", stub)
        monkeypatch.setattr(runs, name, stub, raising=False)
    monkeypatch.setattr("runs.plan.check_hub_id", lambda hub_id, revision: None)
    return stub
