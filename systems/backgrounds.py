"""What stands behind the object, in training and where people look."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from configs.schema import RenderConfig
from models.background import Background
from renderers.cameras import Cameras, camera_rays

Images = Float[Tensor, "batch height width 3"]


def training_background(
    config: RenderConfig, background: Background, cameras: Cameras, generator: torch.Generator
) -> Images:
    """For each view the learnt background or, with a probability, one random colour."""
    count, device = len(cameras), cameras.c2w.device
    solid = torch.rand(count, generator=generator) < config.random_background
    colors = torch.rand(count, 3, generator=generator)
    colors = config.background_low + (config.background_high - config.background_low) * colors
    solid, colors = (drawn.to(device)[:, None, None] for drawn in (solid[:, None], colors))
    _, rays_d = camera_rays(cameras, config.size, config.size)
    if solid.all():
        return colors.expand_as(rays_d)
    return torch.where(solid, colors, background(rays_d))


def plain_background(config: RenderConfig, background: Background, cameras: Cameras, size: int) -> Images:
    """The learnt background; where training never showed it, the middle of the random colours."""
    _, rays_d = camera_rays(cameras, size, size)
    if config.random_background == 1:
        return torch.full_like(rays_d, (config.background_low + config.background_high) / 2)
    return background(rays_d)
