"""Types of fields that allow a part of the numbers or texts only."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from settings.schedules import Knots, check_knots, check_not_negative, check_shares

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]  # a part of a whole, or a probability
OpenShare = Annotated[float, Field(gt=0, lt=1)]
ElevationDeg = Annotated[float, Field(gt=-90, lt=90)]
PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
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


def _check_order(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the range [{bounds[0]:g}, {bounds[1]:g}] is empty; write [low, high]")
    return bounds


ORDERED = AfterValidator(_check_order)  # of a range's two bounds

Schedule = Annotated[Knots, AfterValidator(check_knots)]
# Below 0, a rate or a weight would drive away from what is wanted.
NonNegativeSchedule = Annotated[Schedule, AfterValidator(check_not_negative)]
ShareSchedule = Annotated[Schedule, AfterValidator(check_shares)]
