"""Random streams of an iteration.

Everything that a run draws comes from a generator seeded here by (seed, iteration, rank, purpose), and
from nothing else: a resumed run draws what the uninterrupted one would have drawn, every rank has its
own cameras and noise, and a draw more in one place changes nothing in another. What must be equal on
all ranks (which particles are rendered, where occupancy is probed) takes rank 0's stream everywhere.

Generators live on the CPU, so that a seed means the same draws on every device.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What a stream is for. Values are part of a run's identity: add new ones at the end."""

    INITIALISATION = 1  # never 0: trailing zeros don't count in a SeedSequence (see `stream`)
    PARTICLE = 2
    CAMERAS = 3
    RENDER = 4
    BACKGROUND = 5
    OCCUPANCY = 6
    SCENE_STEP = 7
    ESTIMATOR_STEP = 8
    DIAGNOSTICS = 9
    TEXTURE_FIT = 10
    MESH_POINTS = 11
    MESH_FIT = 12


def stream(seed: int, iteration: int, purpose: Purpose, rank: int = 0, index: int = 0) -> torch.Generator:
    """The generator of one purpose in one iteration; ``index`` tells several of a kind apart.

    A `SeedSequence` ignores trailing zeros, so the purpose, never 0, comes last. It also keeps these
    streams apart from the two-number ones of `particle_generator`.
    """
    state = np.random.SeedSequence([seed, iteration, rank, index, int(purpose)]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def particle_generator(seed: int, index: int) -> torch.Generator:
    """The stream that initialises a particle. It depends on (seed, index) alone.

    So particle 0 of four starts where a single particle of the same seed does.
    """
    state = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def pick_particles(seed: int, iteration: int, count: int, ranks: int = 1) -> list[int]:
    """Which particle each rank renders (Algorithm 1, step 1): each uniform, and as many different ones as there are.

    The first rank's doesn't depend on the number of ranks.
    """
    first = int(torch.randint(count, (), generator=stream(seed, iteration, Purpose.PARTICLE)))
    return [(first + rank) % count for rank in range(ranks)]
