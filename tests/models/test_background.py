"""Backgrounds: a colour for each direction."""

import torch

from models.config import BackgroundConfig
from models.fields import Background, encode_directions


def directions(count=16):
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(2, count, 3, generator=generator), dim=-1)


def test_background_depends_on_the_direction_and_stays_in_range():
    background = Background(BackgroundConfig(), torch.Generator().manual_seed(0))
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
