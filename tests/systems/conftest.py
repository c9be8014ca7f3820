"""A run that fits into seconds: a tiny random prior, a coarse scene, a handful of iterations."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.schema import RunConfig
from guidance.loading import load_prior
from guidance.prior import DiffusionPrior
from guidance.prompts import PromptEmbeddings, embed_prompt
from systems.nerf import NeRFSystem
from tests.systems.tiny_runs import tiny_config
from tests.tiny_priors import save_tiny_stable_diffusion


@pytest.fixture(scope="session")
def prior_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_stable_diffusion(tmp_path_factory.mktemp("prior"))


@pytest.fixture
def config(prior_folder: Path) -> RunConfig:
    return tiny_config(prior_folder)


@pytest.fixture
def prior(prior_folder: Path) -> DiffusionPrior:
    return load_prior(prior_folder)


@pytest.fixture
def prompts(prior: DiffusionPrior) -> PromptEmbeddings:
    return embed_prompt(prior, "a red mug")


@pytest.fixture
def system(config: RunConfig, prior: DiffusionPrior, prompts: PromptEmbeddings) -> NeRFSystem:
    return NeRFSystem(config, prior, prompts)
