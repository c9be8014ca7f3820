"""A run of seconds, as in tests/systems."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.schema import RunConfig
from tests.systems.tiny_runs import tiny_config


@pytest.fixture
def config(prior_folder: Path) -> RunConfig:
    return tiny_config(prior_folder, iterations=2)
