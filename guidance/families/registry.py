"""The families of diffusion models by the pipeline class that ``model_index.json`` names.

A family is one file: a ``DiffusionPrior`` with this decorator, and its name in the import of ``guidance/loading.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from guidance.prior import DiffusionPrior

_Family = TypeVar("_Family", bound=type[DiffusionPrior])

FAMILIES: dict[str, type[DiffusionPrior]] = {}


def family(*pipelines: str, preset: str) -> Callable[[_Family], _Family]:
    """Register a family.

    Args:
        pipelines: diffusers' pipeline classes whose text-to-image models it loads.
        preset: of configs/prior, whose noise range and guidance scale fit it.

    Raises:
        ValueError: another family loads one of the pipelines.
    """

    def register(prior: _Family) -> _Family:
        for pipeline in pipelines:
            if pipeline in FAMILIES:
                raise ValueError(f"{prior.__name__}: {FAMILIES[pipeline].__name__} already loads a {pipeline}")
            FAMILIES[pipeline] = prior
        prior.preset = preset
        return prior

    return register
