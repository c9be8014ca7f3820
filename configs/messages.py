"""From what pydantic finds wrong to the message that a user reads: key, value, place, what is allowed."""

from __future__ import annotations

import difflib
import json
from dataclasses import is_dataclass
from typing import Any

from configs.fields import choices, field_types, flatten, kind_name, leaves, takes_text, type_of
from configs.schema import RunConfig
from configs.sources import Source
from settings.fields import Conflict
from settings.quoting import quoted


def is_of_field(problem: dict[str, Any]) -> bool:
    """Whether one value is wrong by itself, rather than beside others."""
    return not is_dataclass(type_of(key_of(problem), ""))


def key_of(problem: dict[str, Any]) -> str:
    """Full key of the field or section that a problem is about; "" for the whole run."""
    kind: Any = RunConfig
    names = []
    for part in problem["loc"]:
        if not is_dataclass(kind) or part not in field_types(kind):
            break  # a place inside of a list
        names.append(part)
        kind = field_types(kind)[part]
    return ".".join(names)


def explain(problem: dict[str, Any], sources: list[Source]) -> str:
    """One of pydantic's errors in a user's words."""
    key = key_of(problem)
    set_in = {key: (value, source.where) for source in sources for key, value in leaves(source.values, source.where)}
    own = problem.get("ctx", {}).get("error")  # what this project's code raised
    if is_of_field(problem):
        value, where = set_in.get(key, (problem["input"], "the schema"))
        reason = str(own) if isinstance(own, ValueError) else f"must be {kind_name(type_of(key, where))}"
        return f"{key}: {quoted(value)} in {where}: {reason}{_remedy(key, value)}"
    prefix = f"{key}." if key else ""
    if not isinstance(own, Conflict):
        return f"{prefix}{own}"
    keys = [f"{prefix}{name}" for name in own.names]
    places = [f"\n{name} is set in {set_in[name][1]}" for name in keys if name in set_in]
    return f"{' and '.join(keys)}: {own.reason}{''.join(places)}"


def _remedy(key: str, value: Any) -> str:
    kind = type_of(key, "")
    if takes_text(kind) and not isinstance(value, str):
        return "; put it in quotes"  # YAML reads yes, 1e3 and 12:30 as other things
    near = difflib.get_close_matches(str(value), map(str, choices(kind)), n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; the default is {shown(flatten(RunConfig())[key])}"


def shown(value: Any) -> str:
    """A value as YAML and the command line write it."""
    return json.dumps(value, ensure_ascii=False)
