"""Random streams: reproducible, and different wherever anything about them differs."""

from __future__ import annotations

import torch

from systems.seeding import Purpose, particle_generator, pick_particles, stream


def draw(generator: torch.Generator) -> float:
    return torch.rand((), generator=generator, dtype=torch.float64).item()


def test_streams_differ_in_every_coordinate_and_from_the_particles() -> None:
    base = {"seed": 1, "iteration": 2, "purpose": Purpose.CAMERAS, "rank": 0, "index": 0}
    others = [{"seed": 2}, {"iteration": 3}, {"purpose": Purpose.RENDER}, {"rank": 1}, {"index": 1}]
    values = [draw(stream(**base))] + [draw(stream(**{**base, **other})) for other in others]
    values += [draw(particle_generator(seed, index)) for seed, index in ((1, 2), (1, 0))]
    assert len(set(values)) == len(values)
    assert draw(stream(**base)) == values[0]


def test_streams_owe_nothing_to_the_global_state() -> None:
    torch.manual_seed(0)
    first = draw(stream(0, 0, Purpose.RENDER))
    torch.manual_seed(1)
    assert draw(stream(0, 0, Purpose.RENDER)) == first


def test_particles_are_picked_evenly() -> None:
    picked = torch.tensor([pick_particles(0, iteration, 4, ranks=3) for iteration in range(2000)])
    for of_rank in picked.T:
        counts = torch.bincount(of_rank, minlength=4)
        assert counts.sum() == 2000
        assert (counts - 500).abs().max() < 5 * (2000 * 0.25 * 0.75) ** 0.5  # five standard deviations


def test_ranks_render_as_many_particles_as_there_are() -> None:
    for iteration in range(20):
        assert len(set(pick_particles(0, iteration, 4, ranks=3))) == 3
        several = pick_particles(0, iteration, 2, ranks=5)
        assert sorted(several.count(particle) for particle in (0, 1)) == [2, 3]
        assert several[:1] == pick_particles(0, iteration, 2)
