"""Several stages as one run, each going on from the one before: a YAML that lists configurations, such as

    stages:
      nerf: {config: vsd-nerf.yaml}  # beside this file
      geometry: {config: vsd-geometry.yaml, iterations: 5000}  # and any fields of the run

With ``from=FILE`` the first stage starts from a mesh, and may be any. On the command line ``key=value`` is for all
stages and ``stage.key=value`` for one. The runs lie in
``<output.folder>/<pipeline>/<slug of the prompt>/<run>/<number>-<stage>/``, each of them a run like any other.
Their configurations are settled, and mistakes in them told, before the first one starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs.errors import ConfigError
from configs.fields import field_types, flatten
from configs.lineage import Earlier, check_same_world
from configs.load import LoadedConfig, load_config, load_saved
from configs.schema import STAGES, RunConfig
from configs.sources import STAGES_KEY, Source, read_yaml
from runs import folder as folders
from runs.checkpoint_files import has_moved, is_finished, newest_checkpoint
from runs.folder import create_run_folder, stage_folders, write_config
from runs.processes import check_processes, was_requeued
from runs.resume import check_changes
from settings.quoting import quoted
from systems.layout import CONFIG_FILE, newest_path


@dataclass(frozen=True)
class Stage:
    """A line of a pipeline's YAML."""

    name: str
    config: Path
    stated: Source  # fields that the pipeline sets


@dataclass(frozen=True)
class StageRun:
    """What is left to do of a stage."""

    config: RunConfig
    folder: Path
    checkpoint: Path | None  # to go on from
    origin: str  # of the configuration


def read_pipeline(path: Path) -> list[Stage]:
    """The stages of a YAML file.

    Raises:
        ConfigError: the file cannot be read, or isn't of that form.
    """
    content = read_yaml(path)
    stages = content.pop(STAGES_KEY)
    if content:
        raise ConfigError(f"{path}: {', '.join(content)}: unknown key; a pipeline holds {STAGES_KEY} alone")
    if not isinstance(stages, dict) or not stages:
        raise ConfigError(f"{path}: {STAGES_KEY} must hold a line for each stage, such as nerf: {{config: FILE}}")
    found = []
    sections = [name for name in stages if name in field_types(RunConfig)]
    if sections:
        raise ConfigError(
            f"{path}: {STAGES_KEY}.{sections[0]}: is also a field of a run, so {sections[0]}.key=value would be "
            "ambiguous; choose another name for the stage"
        )
    for name, values in stages.items():
        if not isinstance(values, dict) or not isinstance(values.get("config"), str):
            raise ConfigError(f"{path}: {STAGES_KEY}.{name}: needs a configuration, such as {{config: vsd-nerf.yaml}}")
        file = path.parent / values.pop("config")
        found.append(Stage(str(name), file, Source(f"{path} ({name})", values)))
    return found


def split_by_stage(overrides: dict[str, str], names: Sequence[str]) -> dict[str, dict[str, str]]:
    """The command line's values for each stage; those for one stage come after those for all.

    Raises:
        ConfigError: a source is given, which a pipeline finds by itself.
    """
    if "source" in overrides:
        raise ConfigError(
            f"from: {overrides['source']!r} is given, but a pipeline starts from a prompt or a mesh; leave it out, or "
            "run a single stage, such as --config configs/vsd-geometry.yaml from=RUN"
        )
    shared: dict[str, str] = {}
    own: dict[str, dict[str, str]] = {name: {} for name in names}
    for key, text in overrides.items():
        head, _, rest = key.partition(".")
        if head in own and rest:
            own[head][rest] = text
        else:
            shared[key] = text
    return {name: shared | values for name, values in own.items()}


def load_stages(stages: list[Stage], overrides: dict[str, str]) -> list[LoadedConfig]:
    """The configurations of all stages; their sources are named when there is a folder.

    Raises:
        ConfigError: a mistake in one of them, or stages that don't follow each other.
    """
    values = split_by_stage(overrides, [stage.name for stage in stages])
    loaded: list[LoadedConfig] = []
    earlier = None
    for stage in stages:
        loaded.append(load_config(stage.config, values[stage.name], earlier, stage.stated))
        earlier = Earlier(loaded[-1].config, Path(stage.name))
    first = loaded[0].config.stage
    if STAGES[first] is not None and not loaded[0].config.starts_from_mesh:
        raise ConfigError(
            f"{stages[0].config}: a pipeline cannot begin with the stage {first!r}, which goes on from the stage "
            f"{STAGES[first]!r}; put a configuration of that before it, or start from a mesh: from=FILE"
        )
    check_devices([each.config for each in loaded])
    return loaded


def check_devices(configs: Sequence[RunConfig]) -> None:
    """Raise a ConfigError where a stage wants several processes, of which all but one would start the others anew."""
    for config in configs:
        check_processes(config.trainer)
        for name in ("devices", "num_nodes"):
            if (count := getattr(config.trainer, name)) > 1:
                raise ConfigError(
                    f"trainer.{name}: {count}, but the stages of a pipeline run in one process; run them one by one, "
                    "such as --config configs/vsd-geometry.yaml from=RUN"
                )


def requeued_folder(path: Path, overrides: dict[str, str], arguments: Sequence[str]) -> Path | None:
    """The pipeline's folder where its SLURM job was started before."""
    if not was_requeued():
        return None
    first = load_stages(read_pipeline(path), overrides)[0].config
    return folders.requeued_folder(replace(first, name=path.stem), arguments)


def begin(path: Path, overrides: dict[str, str], arguments: Sequence[str]) -> tuple[Path, list[StageRun]]:
    """A new folder for a pipeline and all its stages, with their ``config.yaml`` written.

    Raises:
        ConfigError: a mistake in a file or on the command line, or a folder that cannot be made.
    """
    stages = read_pipeline(path)
    loaded = load_stages(stages, overrides)
    top = create_run_folder(replace(loaded[0].config, name=path.stem), arguments).absolute()
    runs: list[StageRun] = []
    for number, (stage, each) in enumerate(zip(stages, loaded, strict=True), 1):
        folder = top / f"{number}-{stage.name}"
        folder.mkdir()
        source = str(newest_path(runs[-1].folder)) if runs else None
        config = replace(each.config, source=source)
        write_config(config, folder, arguments)
        origin = f"{stage.config}, prior preset {each.prior.preset}"
        runs.append(StageRun(config, folder, None, origin))
    return top, runs


def go_on(top: Path, overrides: dict[str, str]) -> list[StageRun]:
    """What is left to do of a pipeline; finished stages, those with last checkpoint and all results, are left out.

    Raises:
        ConfigError: a change to a stage that is finished, that would make another result, or that disagrees with
            the stage before.
    """
    folders = stage_folders(top)
    names = [folder.name.partition("-")[2] for folder in folders]
    values = split_by_stage(overrides, names)
    runs = []
    earlier: Earlier | None = None
    for folder, name in zip(folders, names, strict=True):
        place = folder / CONFIG_FILE
        saved, wanted = load_saved(place, values[name])
        newest = newest_checkpoint(folder)
        if is_finished(folder, saved):
            check_finished(name, top, overrides, saved, wanted)
        else:
            if newest is not None:
                check_changes("--resume", folder, saved, wanted)
            elif earlier is not None:
                check_same_world(wanted, earlier.config, earlier.checkpoint)
            if earlier is not None:  # where it lies now
                wanted = replace(wanted, source=str(earlier.checkpoint))
            runs.append(StageRun(wanted, folder, newest, str(place)))
        earlier = Earlier(wanted, newest_path(folder.absolute()))
    check_devices([run.config for run in runs])
    return runs


def check_finished(name: str, top: Path, overrides: dict[str, str], saved: RunConfig, wanted: RunConfig) -> None:
    """Raise a ConfigError where the command line asks for something of a stage that will not run again."""
    meant = [key for key in overrides if key.startswith(f"{name}.")]
    if meant:
        raise ConfigError(f"{meant[0]}: the stage {name!r} of {top} is finished; leave it out, or start anew")
    before, after = flatten(saved), flatten(wanted)
    for key in before:
        if before[key] != after[key] and not key.startswith(("logger", "trainer.")):
            raise ConfigError(
                f"{key}: the stage {name!r} of {top} is finished with {quoted(before[key])}; "
                f"name the stage that is meant: STAGE.{key}={after[key]}"
            )


def newest_stage(top: Path) -> Path:
    """The run of the furthest stage that has come beyond its start; of the first where none has."""
    folders = stage_folders(top)
    return next((folder for folder in reversed(folders) if has_moved(folder)), folders[0])
