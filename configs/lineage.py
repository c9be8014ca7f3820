"""What a stage takes from the run that it goes on from.

The policy ``inherit`` of each field of the schema decides: ``prompt``, ``seed`` and the prior are the earlier run's
unless a file or the command line states others. ``particles``, the scene with its radius, and the surface are always
the earlier run's: another value is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.fields import flatten, nested, run_policies
from configs.schema import STAGES, RunConfig, earlier_stages
from configs.sources import CUSTOM_PRESET, PriorChoice, Source
from settings.fields import Inherit
from settings.quoting import quoted


@dataclass(frozen=True)
class Earlier:
    """The run that a stage goes on from."""

    config: RunConfig
    checkpoint: Path

    @property
    def has_learnt_colors(self) -> bool:
        """Whether a loss has made the run's colours, rather than the file that the stage geometry began with."""
        return not (self.config.stage == "geometry" and self.config.starts_from_mesh)

    @property
    def prior(self) -> PriorChoice:
        prior = self.config.prior
        return PriorChoice(prior.preset, prior.path if prior.preset == CUSTOM_PRESET else None)


def inherited(stage: str, earlier: Earlier, keep_prior: bool) -> Source:
    """The values that a stage takes over, and where from.

    Args:
        keep_prior: False where another prior was chosen.

    Raises:
        ConfigError: the run isn't of the stage before.
    """
    check_stage(stage, earlier.config.stage, earlier.checkpoint)
    values = flatten(earlier.config)
    taken = {key: values[key] for key in inherited_keys(stage, "default") if keep_prior or not key.startswith("prior.")}
    taken |= fixed_values(stage, earlier.config) | {"source": str(earlier.checkpoint)}
    return Source(str(earlier.checkpoint), nested(taken))


def inherited_keys(stage: str, how: Inherit) -> list[str]:
    """The fields that a stage inherits, by default or always."""
    before = (None, *earlier_stages(stage))
    return [key for key, policy in run_policies().items() if policy.inherit == how and policy.stage in before]


def fixed_values(stage: str, earlier: RunConfig) -> dict[str, Any]:
    """What a stage and the run that it goes on from must have in common, by full key."""
    values = flatten(earlier)
    return {key: values[key] for key in inherited_keys(stage, "always")}


def check_stage(stage: str, earlier: str, place: Path) -> None:
    """Raise a ConfigError unless a stage goes on from runs of the earlier one."""
    if STAGES.get(stage) is None:
        raise ConfigError(f"source: the stage {stage!r} starts from nothing; leave out from={place}")
    if earlier != STAGES[stage]:
        raise ConfigError(
            f"source: {place} is of the stage {earlier!r}, but the stage {stage!r} goes on from a run of the stage "
            f"{STAGES[stage]!r}; give one of those: from=RUN"
        )


def check_same_world(config: RunConfig, earlier: RunConfig, place: Path) -> None:
    """Raise a ConfigError where a configuration disagrees with the run that it goes on from."""
    check_values(config.stage, flatten(config), earlier, place)


def check_values(stage: str, values: dict[str, Any], earlier: RunConfig, place: Path) -> None:
    """Raise a ConfigError where values, by full key, disagree with the run that a stage goes on from."""
    fixed = fixed_values(stage, earlier)
    wrong = [
        f"{key}: {quoted(_plain(values[key]))} here, {quoted(_plain(value))} in the run"
        for key, value in fixed.items()
        if _plain(values[key]) != _plain(value)
    ]
    if wrong:
        lines = "\n".join(wrong)
        raise ConfigError(
            f"source: {place} disagrees with this configuration\n{lines}\n"
            "a stage keeps these from the run that it goes on from: leave them out"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
