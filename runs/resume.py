"""Going on from runs: which checkpoint a path names, and what may differ from the run that it is of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from configs.errors import ConfigError
from configs.fields import WHERE_IT_RUNS, flatten
from configs.lineage import Earlier, check_stage
from configs.load import read_saved
from configs.runs import (
    CHECKPOINT_FOLDER,
    CHECKPOINTS,
    CONFIG_FILE,
    checkpoints,
    is_whole,
    last_start,
    newest_checkpoint,
    prompt_folder,
)
from configs.schema import EARLIER_STAGE, RunConfig
from configs.sources import read_config

LAST = "last"  # --resume last

#: What a resumed run may change: where it runs, how long it goes on, what it reports, and what the advice on a
#: collapse names (``config.yaml`` keeps the command of each start). Every other field would make the result one that
#: no configuration describes.
MAY_CHANGE_ON_RESUME = (
    *WHERE_IT_RUNS,
    "iterations",
    "logger",
    "optimizer.lr_grid",
    "optimizer.lr_mlp",
    "optimizer.lr_image",
    "optimizer.lr_geometry",
    "optimizer.clip_norm",
    "estimator_optimizer.lr",
    "regularizers.entropy",
    "regularizers.sparsity",
    "guidance.guidance_scale",
    "guidance.max_gradient_rms",
    "trainer.precision",
    "collapse.enabled",
    "collapse.patience",
    "output.preview_every",
    "output.diagnostics_every",
    "output.checkpoint_every",
    "output.checkpoint_minutes",
    "output.keep_checkpoints",
    "output.turntable_frames",
    "output.turntable_size",
    "output.turntable_elevation_deg",
    "output.mesh_resolution",
    "output.mesh_level",
    "export.formats",
    "export.texture_size",
    "export.faces",
    "export.floater_share",
    "export.meters_per_unit",
)

#: What ``--mode test`` may change beyond that: what it measures by, and the size of the views that it draws.
MAY_CHANGE_FOR_TEST = ("guidance.clip_model", "render.size")


def find_checkpoint(option: str, place: Path) -> tuple[Path, Path]:
    """The run's folder and the checkpoint that a path names: a checkpoint, or a run's folder and its newest.

    Raises:
        ConfigError: no such path, no checkpoint in it, not a run's, or cut off.
    """
    if place.is_dir():
        checkpoint = newest_checkpoint(place)
        if checkpoint is None:
            raise ConfigError(
                f"{option}: {place} holds no {CHECKPOINT_FOLDER}/{CHECKPOINTS}; give a checkpoint or the folder of a "
                "run, such as outputs/vsd-nerf/a-red-mug/2025-01-31_12-00-00"
            )
        folder = place
    elif place.is_file():
        folder, checkpoint = place.absolute().parent.parent, place
    else:
        raise ConfigError(f"{option}: {place} does not exist; give a checkpoint, or the folder of a run")
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(
            f"{option}: {checkpoint} belongs to no run: {folder / CONFIG_FILE} is missing; "
            f"keep checkpoints in the {CHECKPOINT_FOLDER} folder of their run"
        )
    if not is_whole(checkpoint):
        others = [str(path) for path in checkpoints(folder) if not path.samefile(checkpoint)]
        remedy = f"use another: {', '.join(others)}" if others else "the run has no other; start it again"
        raise ConfigError(f"{option}: {checkpoint} is no whole checkpoint: it is cut off or damaged; {remedy}")
    return folder, checkpoint


def find_earlier(path: Path, overrides: dict[str, str], required: bool = True) -> Earlier | None:
    """The run that ``from=`` (or ``source`` in the YAML) names, for a configuration that goes on from one.

    Args:
        required: False where None will do in place of a run that isn't named.

    Raises:
        ConfigError: no run is named, it has no whole checkpoint, it is of another stage, or none should be named.
    """
    values = read_config(path).values
    stage = overrides.get("stage", values.get("stage", "nerf"))
    place = overrides.get("source", values.get("source"))
    if not isinstance(place, str | None):
        raise ConfigError(f"source: {place!r} in {path} is not a path; put it in quotes")
    if place is None:
        if stage in EARLIER_STAGE and required:
            raise ConfigError(
                f"source: the stage {stage!r} goes on from a run of the stage {EARLIER_STAGE[stage]!r}; name one: "
                "from=RUN, its folder or one of its checkpoints"
            )
        return None
    folder, checkpoint = find_checkpoint("from", Path(place).expanduser())
    saved = read_saved(folder / CONFIG_FILE)
    check_stage(stage, saved.stage, folder)
    return Earlier(saved, checkpoint.absolute())


def find_last(config: RunConfig) -> Path:
    """The folder of the run that was started or resumed last, among those of a configuration and prompt that have a
    checkpoint.

    Raises:
        ConfigError: there is none.
    """
    parent = prompt_folder(config)
    runs = [folder for folder in parent.iterdir() if checkpoints(folder)] if parent.is_dir() else []
    if not runs:
        raise ConfigError(
            f"--resume {LAST}: no run with a checkpoint in {parent}; check configuration and prompt, "
            "or start a run without --resume"
        )
    return max(runs, key=last_start)


def check_same_name(option: str, folder: Path, saved: RunConfig, asked: RunConfig) -> None:
    """Raise a ConfigError where ``--config`` names another job than the run's."""
    if asked.name != saved.name:
        raise ConfigError(
            f"{option}: the run in {folder} is of the configuration {saved.name!r}, --config asks for {asked.name!r}; "
            "leave out --config, or give a checkpoint of that configuration"
        )


def check_same_source(option: str, folder: Path, saved: RunConfig, source: str) -> None:
    """Raise a ConfigError where ``from=`` names another run than the one that a run went on from."""
    given, _ = find_checkpoint("from", Path(source).expanduser())
    if saved.source is None or Path(saved.source).resolve().parent.parent != given.resolve():
        raise ConfigError(
            f"{option}: the run in {folder} went on from {saved.source or 'nothing'}, not from {given}; leave out from="
        )


def check_changes(option: str, folder: Path, saved: RunConfig, wanted: RunConfig, mode: str = "train") -> None:
    """Refuse to go on with a run, or to test or export it, under another configuration.

    Raises:
        ConfigError: a field differs that is not in ``MAY_CHANGE_ON_RESUME``, nor for the mode ``test`` in
            ``MAY_CHANGE_FOR_TEST``.
    """
    may_change = (*MAY_CHANGE_ON_RESUME, *(MAY_CHANGE_FOR_TEST if mode == "test" else ()))
    lines = differences(saved, wanted, may_change)
    if lines:
        raise ConfigError(
            f"{option}: the run in {folder} was started with another configuration\n"
            + "\n".join(lines)
            + f"\nmay change: {', '.join(may_change)}\nleave the others out, or start a new run"
        )


def differences(saved: RunConfig, wanted: RunConfig, may_differ: Sequence[str]) -> list[str]:
    """A line for each field that differs, but for those that may."""
    before, after = flatten(saved), flatten(wanted)
    changed = [key for key in before if before[key] != after[key] and key not in may_differ]
    return [f"{key}: {before[key]!r} in the run, {after[key]!r} asked for" for key in changed]
