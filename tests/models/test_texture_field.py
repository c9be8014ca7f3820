"""Texture field: range, determinism, scale, and that it can learn a colouring."""

from __future__ import annotations

import torch

from models.config import HashGridConfig, TextureFieldConfig
from models.fields import TextureField

GRID = HashGridConfig(levels=4, log2_hashmap_size=10, base_resolution=4, finest_resolution=32)


def make_field(seed=0, radius=1.0, **options):
    return TextureField(TextureFieldConfig(grid=GRID, **options), radius, torch.Generator().manual_seed(seed))


def random_points(count=500, radius=1.0):
    return (torch.rand(count, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1) * radius


def test_it_starts_grey_and_depends_on_the_generator_alone():
    points = random_points()
    colors = make_field()(points)
    assert (colors - 0.5).abs().max() < 1e-3
    torch.manual_seed(7)
    assert torch.equal(make_field()(points), colors)
    assert not torch.equal(make_field(seed=1)(points), colors)


def test_the_radius_scales_space():
    small, large = make_field(radius=0.5), make_field(radius=2.0)
    for texture in (small, large):
        with torch.no_grad():
            texture.grid.table.mul_(1e4)
    torch.testing.assert_close(small(random_points(radius=0.5)), large(random_points(radius=2.0)))


def test_beyond_the_cube_it_repeats_its_border():
    texture = make_field()
    outside = random_points(radius=3.0)
    assert torch.equal(texture(outside), texture(outside.clamp(-1, 1)))


def test_it_learns_a_colouring():
    texture, points = make_field(), torch.nn.functional.normalize(random_points(), dim=-1) * 0.5
    target = points + 0.5
    optimizer = torch.optim.Adam(texture.parameters(), lr=1e-2, betas=(0.9, 0.99), eps=1e-15)
    for _ in range(100):
        optimizer.zero_grad()
        loss = (texture(points) - target).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3
