"""A folder of its own for each test of a run, a stub in place of training, and the tiny prior of real training."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import runs
from configs.schema import RunConfig
from guidance.loading import load_prior
from guidance.prior import DiffusionPrior
from runs.processes import RUN_FOLDER_VARIABLE
from tests.runs.stubs import STUB, module
from tests.systems.tiny_runs import tiny_config
from tests.tiny_priors import save_tiny_stable_diffusion


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """What launching leaves behind for further processes ends with the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv(RUN_FOLDER_VARIABLE, "")


@pytest.fixture
def run(monkeypatch):
    """The stub; ``run.check`` is what comes before training, ``run.behave`` what training does, ``run.found`` what the
    summary says."""
    nothing = lambda config, folder: None  # noqa: E731
    stub = module("runs.train", STUB, calls=[], check=nothing, behave=nothing, found={}, json=json)
    for name in ("train", "from_checkpoint"):
        monkeypatch.setitem(sys.modules, f"runs.{name}", stub)
        monkeypatch.setattr(runs, name, stub, raising=False)
    return stub


@pytest.fixture(scope="session")
def prior_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_stable_diffusion(tmp_path_factory.mktemp("prior"))


@pytest.fixture
def config(prior_folder: Path) -> RunConfig:
    return tiny_config(prior_folder)


@pytest.fixture
def prior(prior_folder: Path) -> DiffusionPrior:
    return load_prior(prior_folder)
