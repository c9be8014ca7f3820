"""Types of fields that allow a part of the numbers or texts only."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from settings.schedules import Knots, check_above_zero, check_knots, check_not_negative, check_shares


def _whole(value: Any) -> Any:
    """Let 1e9 be the whole number that it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]  # a part of a whole, or a probability
OpenShare = Annotated[float, Field(gt=0, lt=1)]
ElevationDeg = Annotated[float, Field(gt=-90, lt=90)]
PositiveInt = Annotated[Whole, Field(gt=0)]
NonNegativeInt = Annotated[Whole, Field(ge=0)]
Channels = tuple[PositiveInt, ...]  # of each hidden layer
Momentum = Annotated[float, Field(ge=0, lt=1)]
Betas = tuple[Momentum, Momentum]  # of Adam
FolderName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="a folder name of letters, digits, dots, dashes and underscores",
    ),
]


@dataclass(frozen=True)
class OneOf:
    """Names that a registry holds by the time a value is checked; for names that never change use ``Literal``.

    >>> loss: Annotated[str, OneOf({"vsd": ..., "sds": ...})]
    """

    names: Collection[str]

    def check(self, name: str) -> str:
        if name not in self.names:
            raise ValueError(f"must be one of {', '.join(self.names)}")
        return name

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))


def _check_order(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the range [{bounds[0]:g}, {bounds[1]:g}] is empty; write [low, high]")
    return bounds


ORDERED = AfterValidator(_check_order)  # of a range's two bounds

Schedule = Annotated[Knots, AfterValidator(check_knots)]
# Below 0, a rate or a weight would drive away from what is wanted.
NonNegativeSchedule = Annotated[Schedule, AfterValidator(check_not_negative)]
ShareSchedule = Annotated[Schedule, AfterValidator(check_shares)]
ScaleSchedule = Annotated[ShareSchedule, AfterValidator(check_above_zero)]  # in (0, 1]
