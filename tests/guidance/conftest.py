from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import pytest
import torch

from guidance.loading import load_prior
from guidance.prior import DiffusionPrior
from guidance.prompts import PromptEmbeddings, embed_prompt
from renderers.cameras import Cameras, orbit_cameras
from tests.tiny_priors import save_tiny_flux, save_tiny_sd3, save_tiny_sdxl, save_tiny_stable_diffusion

FAMILIES = ["epsilon", "v", "sdxl", "sd3", "flux"]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny pipelines: Stable Diffusion by what its network predicts, the others by family."""
    save = {
        "epsilon": save_tiny_stable_diffusion,
        "v": partial(save_tiny_stable_diffusion, prediction_type="v_prediction"),
        "sdxl": save_tiny_sdxl,
        "sd3": save_tiny_sd3,
        "flux": save_tiny_flux,
    }
    return {kind: save[kind](tmp_path_factory.mktemp(kind)) for kind in FAMILIES}


@pytest.fixture(scope="session")
def loaded(folders: dict[str, Path]) -> dict[str, DiffusionPrior]:
    """Each kind of prior with its text encoders. Tests get copies, which are much cheaper than loading once more."""
    priors = {kind: load_prior(folder) for kind, folder in folders.items()}
    for prior in priors.values():
        assert prior.text_encoders
    return priors


@pytest.fixture(params=FAMILIES)
def prior(request: pytest.FixtureRequest, loaded: dict[str, DiffusionPrior]) -> DiffusionPrior:
    """Each kind of prior in turn."""
    return copy.deepcopy(loaded[request.param])


@pytest.fixture(params=["epsilon", "v"])
def stable_diffusion_prior(request: pytest.FixtureRequest, loaded: dict[str, DiffusionPrior]) -> DiffusionPrior:
    return copy.deepcopy(loaded[request.param])


@pytest.fixture
def epsilon_prior(loaded: dict[str, DiffusionPrior]) -> DiffusionPrior:
    return copy.deepcopy(loaded["epsilon"])


@pytest.fixture
def cameras() -> Cameras:
    angles = torch.tensor([0.0, 90.0, 180.0])
    return orbit_cameras(angles, torch.full((3,), 10.0), torch.full((3,), 2.0), torch.full((3,), 40.0))


@pytest.fixture
def prompts(prior: DiffusionPrior) -> PromptEmbeddings:
    return embed_prompt(prior, "a red mug", release_text_encoder=False)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
