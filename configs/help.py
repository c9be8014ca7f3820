"""What ``launch.py --help SECTION`` prints, read from the schema: types, defaults, policies and comments of fields."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

from configs.fields import field_types, flatten, kind_name, run_policies, type_of
from configs.messages import shown
from configs.schema import RunConfig
from settings.comments import comments

ALL = "all"  # --help all
WIDTH = 110  # characters of a line
_CHANGES = {
    "never": "stays as it is once a run has begun",
    "test": "--mode test may change it",
    "resume": "a resumed run may change it",
    "anywhere": "may differ whenever a run goes on",
}


def help_on(key: str) -> str:
    """The fields below a section, or one field, with type, default, policy and comment.

    Args:
        key: full key such as ``guidance`` or ``optimizer.lr_grid``, or ``all``.

    Raises:
        ConfigError: there is no such field or section; the message names the nearest.
    """
    key = "" if key == ALL else key
    kind = type_of(key, "--help")
    if not is_dataclass(kind):
        return "\n".join(_field(key, kind, _comment(key)))
    note = "Defaults are the schema's; configs/defaults.yaml and the presets of configs/prior may set other values."
    return "\n".join([*_section(key, kind), "", note])


def section_names() -> list[str]:
    """The sections of a run."""
    return [name for name, kind in field_types(RunConfig).items() if is_dataclass(kind)]


def _comment(key: str) -> str:
    parent, _, name = key.rpartition(".")
    return comments(type_of(parent, "--help"))[name]


def _section(key: str, section: type) -> Iterator[str]:
    title = section.__doc__.splitlines()[0]
    yield from textwrap.wrap(f"{key} ({_comment(key)}): {title}" if key else title, WIDTH)
    for name, kind in field_types(section).items():
        full = f"{key}.{name}" if key else name
        yield ""
        yield from _section(full, kind) if is_dataclass(kind) else _field(full, kind, comments(section)[name])


def _field(key: str, kind: Any, comment: str) -> list[str]:
    policy = run_policies()[key]
    facts = f"{kind_name(kind)}; {_CHANGES[policy.change]}"
    if policy.inherit != "no":
        facts += "; a later stage inherits it" + (", unless another is stated" if policy.inherit == "default" else "")
    lines = [*textwrap.wrap(facts, WIDTH - 4), *textwrap.wrap(comment, WIDTH - 4)]
    return [f"{key} = {shown(flatten(RunConfig())[key])}", *(f"    {line}" for line in lines)]
