"""Backgrounds, scenes and particles."""

import pytest
import torch

from models.background import Background, encode_directions
from models.config import BackgroundConfig, HashGridConfig, NeRFSceneConfig, RadianceFieldConfig
from models.scene import Particles, particle_generator

GRID = HashGridConfig(levels=2, log2_hashmap_size=8, base_resolution=4, finest_resolution=8)
SCENE = NeRFSceneConfig(field=RadianceFieldConfig(grid=GRID, hidden=(8,)))


def directions(count=16):
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(2, count, 3, generator=generator), dim=-1)


def test_particles_start_differently_and_reproducibly():
    particles, again = Particles(SCENE, count=4, seed=3), Particles(SCENE, count=4, seed=3)
    for name, _ in particles[0].named_parameters():
        tables = [particle.get_parameter(name) for particle in particles]
        assert all(not torch.equal(tables[i], tables[j]) for i in range(4) for j in range(i))
        assert all(torch.equal(table, scene.get_parameter(name)) for table, scene in zip(tables, again, strict=True))


def test_a_particle_does_not_depend_on_how_many_there_are():
    alone, first = Particles(SCENE, count=1, seed=3)[0], Particles(SCENE, count=3, seed=3)[0]
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), first.parameters(), strict=True))
    other = Particles(SCENE, count=1, seed=4)[0]
    assert not torch.equal(alone.field.grid.table, other.field.grid.table)


def test_training_one_particle_leaves_the_others_alone():
    particles = Particles(SCENE, count=2, seed=0)
    particles[1].field(torch.zeros(1, 3)).sigmas.sum().backward()
    assert all(parameter.grad is None for parameter in particles[0].parameters())
    assert particles[1].field.grid.table.grad.abs().sum() > 0


def test_particles_state_dict_round_trip():
    particles, other = Particles(SCENE, count=2, seed=0), Particles(SCENE, count=2, seed=1)
    other.load_state_dict(particles.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(particles.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(("count", "seed", "match"), [(0, 0, "particles: 0"), (1, -1, "seed: -1")])
def test_particles_reject(count, seed, match):
    with pytest.raises(ValueError, match=match):
        Particles(SCENE, count=count, seed=seed)


def test_background_depends_on_the_direction_and_stays_in_range():
    background = Background(BackgroundConfig(), particle_generator(0, 0))
    rgb = background(directions())
    assert rgb.shape == (2, 16, 3) and (rgb > 0).all() and (rgb < 1).all()
    assert rgb.std(dim=1).min() > 0.01
    rgb.sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in background.parameters())


def test_solid_background_has_its_colour_and_nothing_to_train():
    background = Background(BackgroundConfig(kind="solid", color=(0.1, 0.2, 0.3)), torch.Generator())
    assert torch.equal(background(directions()), torch.tensor([0.1, 0.2, 0.3]).expand(2, 16, 3))
    assert not list(background.parameters())


def test_direction_encoding_by_hand():
    encoded = encode_directions(torch.tensor([0.5, 0.0, -0.5]), frequencies=2)
    expected = [0.5, 0, -0.5, *(1, 0, -1, 0, 0, 0), *(0, 1, 0, -1, 1, -1)]
    torch.testing.assert_close(encoded, torch.tensor(expected), atol=1e-6, rtol=0)
