"""Which system a configuration's ``stage`` names."""

from __future__ import annotations

from configs.schema import RunConfig
from systems.base import DistillationSystem
from systems.image import ImageSystem
from systems.nerf import NeRFSystem

SYSTEMS: dict[str, type[DistillationSystem]] = {system.stage: system for system in (NeRFSystem, ImageSystem)}


def system_class(config: RunConfig) -> type[DistillationSystem]:
    return SYSTEMS[config.stage]
