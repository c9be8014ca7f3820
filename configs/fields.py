"""The fields of a run by their full keys (``render.size``), with their types and how users call these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from configs.errors import ConfigError, allowed
from configs.schema import RunConfig

#: Where and how a run is computed, not what: these may differ between a run and what goes on from it.
WHERE_IT_RUNS = (
    "trainer.accelerator",
    "trainer.devices",
    "trainer.threads",
    "prior.precision",
    "estimator.gradient_checkpointing",
    "scene.field.grid.backend",
    "appearance.field.grid.backend",
    "render.mesh.rasterizer.backend",
    "render.volume.rays_per_chunk",
)
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}


@cache
def field_types(section: type) -> dict[str, Any]:
    """Type of each field of a section."""
    hints = get_type_hints(section)
    return {name: hints[name] for name in section.__dataclass_fields__}


def field_type(section: type, name: str, prefix: str, where: str) -> Any:
    """Type of one field.

    Raises:
        ConfigError: the section has no such field.
    """
    types = field_types(section)
    if name not in types:
        place = f" in the section {prefix[:-1]!r}" if prefix else ""
        raise ConfigError(f"{prefix}{name}: unknown key in {where}; {allowed(name, types)}{place}")
    return types[name]


def type_of(key: str, where: str) -> Any:
    """Type of the field, or section, with a full key.

    Raises:
        ConfigError: there is none.
    """
    kind, prefix = RunConfig, ""
    for name in key.split("."):
        if not is_dataclass(kind):
            raise ConfigError(f"{key}: unknown key in {where}; {prefix[:-1]} is a field, it has no parts")
        kind, prefix = field_type(kind, name, prefix, where), f"{prefix}{name}."
    return kind


def leaves(
    values: dict[str, Any], where: str, section: type = RunConfig, prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Full key, value and type of every field that is set in nested values.

    Raises:
        ConfigError: an unknown key, or a single value for a section.
    """
    for name, value in values.items():
        key, kind = f"{prefix}{name}", field_type(section, str(name), prefix, where)
        if not is_dataclass(kind):
            yield key, value, kind
        elif isinstance(value, dict):
            yield from leaves(value, where, kind, f"{key}.")
        else:
            fields = ", ".join(f"{key}.{name}" for name in field_types(kind))
            raise ConfigError(f"{key}: {value!r} in {where}, but {key} is a section; set one of its fields: {fields}")


def flatten(config: RunConfig) -> dict[str, Any]:
    """Every value by its full key."""
    return {key: value for key, value, _ in leaves(asdict(config), "")}


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def kind_name(kind: Any) -> str:
    """A type in a user's words."""
    parts = alternatives(kind)
    if len(parts) > 1:
        return " or ".join(kind_name(part) for part in parts)
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        if Ellipsis in inner:
            example = "[a, b]" if inner[0] is str else "[32, 32]"
            return f"a list of which each is {kind_name(inner[0])}, such as {example}"
        return f"a list of {len(inner)} of which each is {kind_name(inner[0])}"
    if get_origin(kind) is list:
        return "a list of [iteration, value] pairs, such as [[0, 0.98], [5000, 0.5]]"
    return "a section" if is_dataclass(kind) else _NAMES[kind]
