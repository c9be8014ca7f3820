"""A run of seconds, as in tests/systems."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.schema import RunConfig
from tests.systems.tiny_runs import tiny_config
from tests.tiny_priors import save_tiny_stable_diffusion


@pytest.fixture(scope="session")
def prior_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_stable_diffusion(tmp_path_factory.mktemp("prior"))


@pytest.fixture
def config(prior_folder: Path) -> RunConfig:
    return tiny_config(prior_folder, iterations=2)
