"""The fields of a run by their full keys (``render.size``): types, policies, and how users call these."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from configs.errors import ConfigError, allowed
from configs.retired import RETIRED
from configs.schema import RunConfig
from settings.constraints import OneOf
from settings.fields import Policy, policies

_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}


@cache
def field_types(section: type) -> dict[str, Any]:
    """Type of each field of a section, with its constraints."""
    hints = get_type_hints(section, include_extras=True)
    return {field.name: hints[field.name] for field in fields(section)}


def field_type(section: type, name: str, prefix: str, where: str) -> Any:
    """Type of one field.

    Raises:
        ConfigError: the section has no such field.
    """
    types, key = field_types(section), f"{prefix}{name}"
    if name in types:
        return types[name]
    if key in RETIRED:
        raise ConfigError(f"{key}: is no field any more, but set in {where}; {RETIRED[key].remedy}")
    place = f" in the section {prefix[:-1]!r}" if prefix else ""
    raise ConfigError(f"{key}: unknown key in {where}; {allowed(name, types)}{place}")


def type_of(key: str, where: str) -> Any:
    """Type of the field, or section, with a full key; "" is the run itself.

    Raises:
        ConfigError: there is none.
    """
    kind, prefix = RunConfig, ""
    for name in key.split(".") if key else ():
        if not is_dataclass(kind):
            raise ConfigError(f"{key}: unknown key in {where}; {prefix[:-1]} is a field, it has no parts")
        kind, prefix = field_type(kind, name, prefix, where), f"{prefix}{name}."
    return kind


def leaves(
    values: dict[str, Any], where: str, section: type = RunConfig, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Full key and value of every field that is set in nested values.

    Raises:
        ConfigError: an unknown key, or a single value for a section.
    """
    for name, value in values.items():
        key, kind = f"{prefix}{name}", field_type(section, str(name), prefix, where)
        if not is_dataclass(kind):
            yield key, value
        elif isinstance(value, dict):
            yield from leaves(value, where, kind, f"{key}.")
        else:
            names = ", ".join(f"{key}.{name}" for name in field_types(kind))
            raise ConfigError(f"{key}: {value!r} in {where}, but {key} is a section; set one of its fields: {names}")


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Values by full key, section in section."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *parents, name = key.split(".")
        section = tree
        for parent in parents:
            section = section.setdefault(parent, {})
        section[name] = value
    return tree


def flatten(config: RunConfig) -> dict[str, Any]:
    """Every value by its full key."""
    return dict(leaves(asdict(config), ""))


@cache
def run_policies() -> dict[str, Policy]:
    """The policy of every field of a run by its full key."""
    return policies(RunConfig)


def plain_type(kind: Any) -> Any:
    """A type without its constraints; of a choice, the type of its values."""
    if get_origin(kind) is Annotated:
        return plain_type(get_args(kind)[0])
    return type(get_args(kind)[0]) if get_origin(kind) is Literal else kind


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    return get_args(kind) if get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def takes_text(kind: Any) -> bool:
    """Whether a field takes a text, and no number, which only YAML tells from one."""
    types = set(map(plain_type, alternatives(kind)))
    return str in types and not types & {int, float}


def takes_null(kind: Any) -> bool:
    return NoneType in alternatives(kind)


def choices(kind: Any) -> tuple[Any, ...]:
    """The values of a field that allows certain ones only; empty for other fields."""
    found: list[Any] = []
    for part in alternatives(kind):
        if get_origin(part) is Literal:
            found += get_args(part)
        if get_origin(part) is Annotated:
            found += [name for each in get_args(part)[1:] if isinstance(each, OneOf) for name in each.names]
    return tuple(found)


def kind_name(kind: Any) -> str:
    """What a field takes, in words.

    >>> from settings.constraints import PositiveInt, Share
    >>> kind_name(Share | None), kind_name(tuple[PositiveInt, ...])
    ('a number in [0, 1] or null', 'a list, such as [32, 32], of which each is a positive whole number')
    """
    parts = alternatives(kind)
    if len(parts) > 1:
        return " or ".join(kind_name(part) for part in parts)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is Annotated:
        return _constrained(*get_args(kind))
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        each = kind_name(inner[0])
        if Ellipsis in inner:
            example = "[32, 32]" if plain_type(inner[0]) in (int, float) else "[a, b]"
            return f"a list, such as {example}, of which each is {each}"
        return f"a list of {len(inner)}, each {each}"
    if get_origin(kind) is list:
        return "a list of [iteration, value] pairs, such as [[0, 0.98], [5000, 0.5]]"
    return "a section" if is_dataclass(kind) else _NAMES[kind]


def _constrained(kind: Any, *constraints: Any) -> str:
    """A type and the bounds of its values."""
    for names in (each.names for each in constraints if isinstance(each, OneOf)):
        return f"one of {', '.join(names)}"
    infos = [info for info in constraints if isinstance(info, FieldInfo)]
    for info in infos:
        if info.description:
            return info.description
    bounds = {type(bound): bound for info in infos for bound in info.metadata}
    low = bounds.get(Ge) or bounds.get(Gt)
    high = bounds.get(Le) or bounds.get(Lt)
    name = kind_name(kind)
    if isinstance(low, Gt) and low.gt == 0 and high is None:
        return name.replace("a ", "a positive ", 1)
    if low is not None and high is not None:
        opening, closing = "[" if isinstance(low, Ge) else "(", "]" if isinstance(high, Le) else ")"
        return f"{name} in {opening}{_bound(low):g}, {_bound(high):g}{closing}"
    if low is not None:
        return f"{name} {'from' if isinstance(low, Ge) else 'above'} {_bound(low):g}{' on' * isinstance(low, Ge)}"
    if high is not None:
        return f"{name} {'up to' if isinstance(high, Le) else 'below'} {_bound(high):g}"
    return name


def _bound(bound: Ge | Gt | Le | Lt) -> float:
    return getattr(bound, type(bound).__name__.lower())  # Ge.ge, Gt.gt and so on
