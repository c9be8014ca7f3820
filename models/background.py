"""Background: the colour that a ray sees behind the object, as a function of its direction alone.

The encoding is that of NeRF (Mildenhall et al. 2020): direction, and sine and cosine of pi 2^k times
it. Painting the background in a random solid colour now and then is the caller's choice: the renderer
takes colours.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.config import BackgroundConfig
from models.mlp import MLP


def encode_directions(rays_d: Float[Tensor, "*n 3"], frequencies: int) -> Float[Tensor, "*n channels"]:
    """Directions with sines and cosines of ``frequencies`` octaves: 3 + 6 frequencies channels."""
    octaves = math.pi * 2.0 ** torch.arange(frequencies, device=rays_d.device, dtype=rays_d.dtype)
    phases = (rays_d[..., None, :] * octaves[:, None]).flatten(-2)
    return torch.cat([rays_d, phases.sin(), phases.cos()], dim=-1)


class Background(nn.Module):
    """Colour by direction."""

    def __init__(self, config: BackgroundConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        if config.kind == "mlp":
            self.mlp = MLP([3 + 6 * config.frequencies, *config.hidden, 3], generator)
        else:
            self.register_buffer("color", torch.tensor(config.color))

    def forward(self, rays_d: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """sRGB in [0, 1] of unit directions in the world frame."""
        if self.config.kind == "solid":
            return self.color.expand_as(rays_d)
        return torch.sigmoid(self.mlp(encode_directions(rays_d, self.config.frequencies)).float())
