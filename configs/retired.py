"""Fields that are gone: saved configurations of earlier versions still hold them, and can still be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from configs.errors import ConfigError


@dataclass(frozen=True)
class Retired:
    """A field that is gone."""

    remedy: str  # for somebody who still sets it
    equals: str | None = None  # the field that says the same now
    stages: tuple[str, ...] = ()  # stages that read it, so that it must have the value of ``equals``


RETIRED = {
    "surface.field.radius": Retired(
        "set scene.field.radius, which all stages share", "scene.field.radius", ("geometry", "texture")
    ),
    "appearance.field.radius": Retired(
        "set scene.field.radius, which all stages share", "scene.field.radius", ("texture",)
    ),
    "guidance.one_batch": Retired("leave it out: it changed the speed alone, by about 2%"),
}


def without_retired(values: dict[str, Any], where: str) -> dict[str, Any]:
    """A saved configuration without the fields that are gone.

    Raises:
        ConfigError: such a field contradicts the one that took its place.
    """
    for key, retired in RETIRED.items():
        old = _get(values, key)
        if old is None:
            continue
        new = None if retired.equals is None else _get(values, retired.equals)
        if new is not None and values.get("stage") in retired.stages and old != new:
            raise ConfigError(
                f"{key}: {old!r} in {where}, but {retired.equals} is {new!r}: one world has one radius since this "
                "version; go on with that run in the version that began it, or start a new run"
            )
    return _dropped(values)


def _get(values: dict[str, Any], key: str) -> Any:
    found: Any = values
    for name in key.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _dropped(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    return {
        name: _dropped(value, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in values.items()
        if f"{prefix}{name}" not in RETIRED
    }
