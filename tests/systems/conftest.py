"""A run that fits into seconds: a tiny random prior, a coarse scene, a handful of iterations."""

from __future__ import annotations

import pytest

from configs.schema import RunConfig
from guidance.prior import DiffusionPrior
from guidance.prompts import PromptEmbeddings, embed_prompt
from systems.nerf import NeRFSystem


@pytest.fixture
def prompts(prior: DiffusionPrior) -> PromptEmbeddings:
    return embed_prompt(prior, "a red mug")


@pytest.fixture
def system(config: RunConfig, prior: DiffusionPrior, prompts: PromptEmbeddings) -> NeRFSystem:
    return NeRFSystem(config, prior, prompts)
