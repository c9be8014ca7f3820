"""Going on from runs: which checkpoint a path names, and what may differ from the run that it is of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.fields import flatten, run_policies
from configs.lineage import Earlier, check_stage
from configs.load import read_saved
from configs.schema import STAGES, RunConfig
from configs.sources import MESH, read_config
from models.placement import SUFFIXES, is_mesh_name
from runs.checkpoint_files import checkpoints, find_checkpoint, was_only_begun
from runs.folder import last_start, prompt_folder, stage_folders
from settings.fields import Change
from settings.quoting import quoted
from systems.layout import CHECKPOINTS, CONFIG_FILE

LAST = "last"  # --resume last


def find_earlier(path: Path, overrides: dict[str, str], required: bool = True) -> Earlier | None:
    """The run that ``from=`` (or ``source`` in the YAML) names, for a configuration that goes on from one.

    Args:
        required: False where None will do in place of a run or a mesh that isn't named.

    Raises:
        ConfigError: neither a run nor a mesh is named, the run has no whole checkpoint or is of another stage, or none
            should be named.
    """
    values = read_config(path).values
    stage = overrides.get("stage", values.get("stage", "nerf"))
    place = overrides.get("source", values.get("source"))
    if not isinstance(place, str | None):
        raise ConfigError(f"source: {place!r} in {path} is not a path; put it in quotes")
    if place is None:
        if STAGES.get(stage) is not None and required and not _names_mesh(values, overrides):
            raise ConfigError(
                f"source: the stage {stage!r} goes on from a run of the stage {STAGES[stage]!r}, or starts from a "
                "mesh; name one: from=RUN, its folder or one of its checkpoints, or from=FILE, such as chair.glb"
            )
        return None
    if is_mesh_name(place):
        raise ConfigError(f"source: {place!r} is a mesh; in a file, write source_mesh: {{path: {place}}}")
    if Path(place).is_file() and Path(place).suffix != Path(CHECKPOINTS).suffix:
        raise ConfigError(
            f"from: {place} is neither a checkpoint ({CHECKPOINTS}) nor a mesh ({', '.join(SUFFIXES)}); give a run's "
            "folder or one of its checkpoints, or convert the mesh"
        )
    folder, checkpoint = find_checkpoint("from", Path(place).expanduser())
    saved = read_saved(folder / CONFIG_FILE)
    check_stage(stage, saved.stage, folder)
    return Earlier(saved, checkpoint.absolute())


def _names_mesh(values: dict[str, Any], overrides: dict[str, str]) -> bool:
    section = values.get("source_mesh")
    return MESH in overrides or (isinstance(section, dict) and section.get("path") is not None)


def find_last(config: RunConfig) -> Path:
    """The folder of the run that was started or resumed last, among those of a configuration and prompt that have a
    checkpoint; where none has, among all of them. For a pipeline, ``config.name`` is the pipeline's.

    Raises:
        ConfigError: there is none.
    """
    parent = prompt_folder(config)
    begun = {}
    for folder in parent.iterdir() if parent.is_dir() else ():
        parts = stage_folders(folder) or [folder]
        has_checkpoint = any(checkpoints(part) for part in parts)
        if has_checkpoint or any(was_only_begun(part) for part in parts):
            begun[folder] = has_checkpoint, max(last_start(part) for part in parts), folder.name
    if not begun:
        raise ConfigError(
            f"--resume {LAST}: no run in {parent}; check configuration and prompt, or start a run without --resume"
        )
    return max(begun, key=lambda folder: begun[folder])


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


def check_same_mesh(option: str, folder: Path, saved: RunConfig, mesh: str) -> None:
    """Raise a ConfigError where ``from=`` names another mesh than the one that a run started from."""
    if saved.source_mesh.path is None or Path(saved.source_mesh.path).resolve() != Path(mesh).resolve():
        raise ConfigError(
            f"{option}: the run in {folder} started from {saved.source_mesh.path or 'no mesh'}, not from {mesh}; "
            "leave out from="
        )


def check_changes(option: str, folder: Path, saved: RunConfig, wanted: RunConfig, mode: str = "train") -> None:
    """Refuse to go on with a run, or to test or export it, under another configuration.

    Raises:
        ConfigError: a field differs whose policy doesn't allow that.
    """
    by: Change = "test" if mode == "test" else "resume"
    lines = differences(saved, wanted, by)
    if lines:
        may_change = [key for key, policy in run_policies().items() if policy.may_change(by)]
        raise ConfigError(
            f"{option}: the run in {folder} was started with another configuration\n"
            + "\n".join(lines)
            + f"\nmay change: {', '.join(may_change)}\nleave the others out, or start a new run"
        )


def differences(saved: RunConfig, wanted: RunConfig, by: Change) -> list[str]:
    """A line for each field that differs, but for those that ``by`` may change."""
    before, after = flatten(saved), flatten(wanted)
    return [
        f"{key}: {quoted(before[key])} in the run, {quoted(after[key])} asked for"
        for key, policy in run_policies().items()
        if before[key] != after[key] and not policy.may_change(by)
    ]
