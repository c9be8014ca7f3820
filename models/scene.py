"""Scenes: what is optimised, and the particles that represent a distribution over them.

Variational Score Distillation moves n particles theta_1..theta_n (ProlificDreamer, Algorithm 1). A
particle is a `NeRFScene`; its initialisation depends on (seed, index) only, so particle 0 of four
starts where a single particle of the same seed does.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from models.background import Background
from models.config import NeRFSceneConfig
from models.fields import RadianceField


class NeRFScene(nn.Module):
    """The parameters theta of one particle."""

    def __init__(self, config: NeRFSceneConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.field = RadianceField(config.field, generator)
        self.background = Background(config.background, generator)


class Particles(nn.ModuleList):
    """``count`` scenes of one configuration, each from its own random stream."""

    def __init__(self, config: NeRFSceneConfig, count: int, seed: int) -> None:
        """Initialise every scene on the CPU.

        Raises:
            ValueError: fewer than one particle, or a negative seed.
        """
        if count < 1:
            raise ValueError(f"particles: {count} is too few; use at least 1")
        if seed < 0:
            raise ValueError(f"seed: {seed} must not be negative")
        super().__init__(NeRFScene(config, particle_generator(seed, index)) for index in range(count))


def particle_generator(seed: int, index: int) -> torch.Generator:
    """The random stream that initialises a particle; streams of different pairs are independent."""
    state = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
