"""Which system a configuration's ``stage`` names."""

from __future__ import annotations

from configs.schema import RunConfig
from systems.base import DistillationSystem
from systems.geometry import GeometrySystem
from systems.image import ImageSystem
from systems.nerf import NeRFSystem
from systems.texture import TextureSystem

SYSTEMS: dict[str, type[DistillationSystem]] = {
    system.stage: system for system in (NeRFSystem, GeometrySystem, TextureSystem, ImageSystem)
}


def system_class(config: RunConfig) -> type[DistillationSystem]:
    return SYSTEMS[config.stage]
