from __future__ import annotations

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


@pytest.fixture(params=FAMILIES)
def prior(request: pytest.FixtureRequest, folders: dict[str, Path]) -> DiffusionPrior:
    """Each kind of prior in turn."""
    return load_prior(folders[request.param])


@pytest.fixture(params=["epsilon", "v"])
def stable_diffusion_prior(request: pytest.FixtureRequest, folders: dict[str, Path]) -> DiffusionPrior:
    return load_prior(folders[request.param])


@pytest.fixture
def epsilon_prior(folders: dict[str, Path]) -> DiffusionPrior:
    return load_prior(folders["epsilon"])


@pytest.fixture
def cameras() -> Cameras:
    angles = torch.tensor([0.0, 90.0, 180.0])
    return orbit_cameras(angles, torch.full((3,), 10.0), torch.full((3,), 2.0), torch.full((3,), 40.0))


@pytest.fixture
def prompts(prior: DiffusionPrior) -> PromptEmbeddings:
    return embed_prompt(prior, "a red mug")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
