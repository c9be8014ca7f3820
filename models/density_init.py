"""Where a radiance field is dense before training: an additive bias on the density's pre-activation.

ProlificDreamer starts from softplus(lambda (1 - |mu| / r)), mu being the point in scene units: a blob
of radius r for an object (lambda > 0), a hollow surrounded by density for a scene (lambda < 0), and
both for an object in the centre of a scene.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from models.config import DensityInitConfig


def density_bias(points: Float[Tensor, "n 3"], config: DensityInitConfig) -> Float[Tensor, "n"]:
    """Bias lambda (1 - |mu| / r) at points in scene units; continuous in all three kinds."""
    distance = torch.linalg.vector_norm(points, dim=-1)
    as_object = config.object_strength * (1 - distance / config.object_radius)
    as_scene = config.scene_strength * (1 - distance / config.scene_radius)
    if config.kind == "object":
        return as_object
    if config.kind == "scene":
        return as_scene
    return torch.where(distance < config.switch_radius, as_object, as_scene)
