"""Where a radiance field is dense before training: an additive bias on the density's pre-activation.

ProlificDreamer starts from softplus(lambda (1 - |mu| / r)), mu being the point in scene units: a blob
of radius r for an object (lambda > 0), a hollow surrounded by density for a scene (lambda < 0), and
both for an object in the centre of a scene.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

KINDS = ("object", "scene", "centred_object")


@dataclass(frozen=True)
class DensityInitConfig:
    """Initial density; the defaults are the paper's."""

    kind: str = "object"  # object | scene | centred_object
    object_strength: float = 10.0  # lambda of the object: the bias at the origin
    object_radius: float = 0.5  # scene units, where the object's bias crosses zero
    scene_strength: float = -10.0  # lambda of the scene: the bias at the origin
    scene_radius: float = 2.5  # scene units, where the scene's bias crosses zero

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.object_strength <= 0:
            raise ValueError(f"object_strength: {self.object_strength:g} must be positive: dense inside")
        if self.scene_strength >= 0:
            raise ValueError(f"scene_strength: {self.scene_strength:g} must be negative: empty inside")
        if not 0 < self.object_radius < self.scene_radius:
            raise ValueError(
                f"object_radius and scene_radius: need 0 < object < scene, "
                f"not {self.object_radius:g} and {self.scene_radius:g}"
            )

    @property
    def switch_radius(self) -> float:
        """Where the two biases are equal, in scene units; 5/6 at the defaults."""
        difference = self.object_strength - self.scene_strength
        return difference / (self.object_strength / self.object_radius - self.scene_strength / self.scene_radius)


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
