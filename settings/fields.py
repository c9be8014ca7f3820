"""How a field of a configuration is declared: its default, and beside it when it may change.

A section is a frozen dataclass that pydantic checks:

    @section
    class EstimatorOptimizerConfig:
        \"\"\"AdamW on the LoRA estimator.\"\"\"

        lr: Positive = setting(1e-4, change="resume")  # after warm-up
        steps_per_iteration: PositiveInt = 1  # optimizer steps an iteration

- The type says what one value may be: ``settings/constraints.py`` has the constrained types; choices are ``Literal``.
- ``__post_init__`` checks values that depend on each other, and raises a ``Conflict``.
- ``setting`` states the policy of a field. A field without one has the policy of its section, and the section that of
  the section around it.
- The comment is the field's documentation: a comment at the end of its line, or on the lines above it.
  ``launch.py --help SECTION`` prints it (``settings/comments.py``).

Types are strict: no text becomes a number, no number a text, and NaN and infinity are refused.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass
from typing import Any, Literal, TypeVar, dataclass_transform, get_type_hints

import pydantic

#: What may change a field once a run has begun. Each word includes the ones before it.
#: never: nothing. test: ``--mode test``. resume: a resumed run, too. anywhere: it says where and how the run is
#: computed, not what; any run that goes on from this one may differ, a later stage too. So such a field is neither
#: inherited nor a part of the state, even where its section is.
Change = Literal["never", "test", "resume", "anywhere"]
CHANGES: tuple[Change, ...] = ("never", "test", "resume", "anywhere")
#: What a stage takes from the run that it goes on from. no: nothing. default: the value, unless a file or the command
#: line states another. always: the value; another value is an error.
Inherit = Literal["no", "default", "always"]

_POLICY = "policy"
_Section = TypeVar("_Section")


class Conflict(ValueError):
    """Values of a section that don't go together.

    Args:
        names: the fields, as their section calls them.
        reason: what is wrong with which values, and the remedy.
    """

    def __init__(self, names: str | Sequence[str], reason: str) -> None:
        self.names = (names,) if isinstance(names, str) else tuple(names)
        self.reason = reason
        super().__init__(f"{' and '.join(self.names)}: {reason}")


@dataclass(frozen=True)
class Policy:
    """When a field may change, and who takes it over."""

    change: Change = "never"
    inherit: Inherit = "no"
    state: bool = False  # a checkpoint cannot be loaded where this differs
    stage: str | None = None  # the stage that settles the value: only later stages inherit it; None: any stage does

    def may_change(self, by: Change) -> bool:
        """Whether ``by`` (test, resume or anywhere) may change the field."""
        return CHANGES.index(self.change) >= CHANGES.index(by)


def setting(
    default: Any = MISSING,
    *,
    factory: Callable[[], Any] | None = None,
    change: Change | None = None,
    inherit: Inherit | None = None,
    state: bool | None = None,
    stage: str | None = None,
) -> Any:
    """A field of a section, with its default and its policy; ``Policy`` explains the arguments.

    None means: as the section that holds the field. A list is copied for each configuration.
    """
    stated = {"change": change, "inherit": inherit, "state": state, "stage": stage}
    metadata = {_POLICY: {name: value for name, value in stated.items() if value is not None}}
    if isinstance(default, list):
        shared = default
        return dataclasses.field(default_factory=lambda: copy.deepcopy(shared), metadata=metadata)
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass_transform(frozen_default=True)  # to type checkers every field with a value has a default
def section(cls: type[_Section]) -> type[_Section]:
    """Make a class a section of a configuration.

    Creating one raises a pydantic ``ValidationError``, which is a ``ValueError``, for an unknown name or a wrong value.
    """
    config = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return pydantic.dataclasses.dataclass(cls, frozen=True, config=config)  # type: ignore[return-value]


def policies(section: type, prefix: str = "", outer: Policy = Policy()) -> dict[str, Policy]:
    """The policy of every field below a section, by full key such as ``scene.field.grid.levels``."""
    hints = get_type_hints(section)
    found: dict[str, Policy] = {}
    for field in dataclasses.fields(section):
        key = f"{prefix}{field.name}"
        policy = dataclasses.replace(outer, **field.metadata.get(_POLICY, {}))
        if dataclasses.is_dataclass(hints[field.name]):
            found |= policies(hints[field.name], f"{key}.", policy)
        else:
            found[key] = Policy("anywhere") if policy.change == "anywhere" else policy
    return found
