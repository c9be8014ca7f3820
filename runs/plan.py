"""From a command line to what is to be done: new runs, the rest of a run or a pipeline, tests, exports."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs import load, sources
from configs.errors import ConfigError
from configs.lineage import Earlier
from configs.schema import RunConfig
from runs import folder as folders
from runs import pipeline, resume
from runs.checkpoint_files import checkpoints, find_checkpoint, is_finished
from runs.processes import is_first_process
from settings.schedules import value_at
from systems.layout import CONFIG_FILE


@dataclass(frozen=True)
class Plan:
    """What a command line amounts to."""

    mode: str  # train | test | export
    config: RunConfig
    folder: Path  # of the run
    checkpoint: Path | None  # to go on from, or to test or export
    is_new: bool  # the folder was made for this run, by this process
    origin: str  # of the configuration, for the announcement
    pipeline: Path | None = None  # the folder of the pipeline that the run is a stage of
    record: Callable[[], None] | None = None  # writes what a resumption changes, once nothing speaks against it


def make_plans(options: argparse.Namespace, arguments: Sequence[str]) -> list[Plan]:
    """What to do, in order: one run, or those of a pipeline that aren't finished.

    Raises:
        ConfigError: a mistake in the command line, a file, a checkpoint's place or the output folder.
    """
    overrides = sources.split_overrides(options.overrides)
    is_pipeline = False
    if options.config is not None:
        is_pipeline = options.config.is_file() and sources.is_pipeline(options.config)
    if not (options.resume or options.checkpoint):
        plan = _plan_new_pipeline if is_pipeline else _plan_new_run
        return plan(options, arguments, overrides)

    option = "--checkpoint" if options.checkpoint else "--resume"
    place = Path(options.checkpoint or options.resume).expanduser()
    if options.resume == resume.LAST:
        place = resume.find_last(_asked(options, overrides, is_pipeline))
    if folders.stage_folders(place):
        if options.config is not None and not is_pipeline:
            raise ConfigError(f"{option}: {place} is a pipeline's folder, --config a single stage; leave out --config")
        if options.mode == "train":
            return _plan_rest_of_pipeline(place, arguments, overrides)
        place = pipeline.newest_stage(place)
    elif is_pipeline:
        raise ConfigError(f"{option}: {place} is no pipeline's folder; leave out --config, or give such a folder")
    return [_plan_from_checkpoint(option, place, options, arguments, overrides, is_pipeline)]


def _plan_new_run(options: argparse.Namespace, arguments: Sequence[str], overrides: dict[str, str]) -> list[Plan]:
    loaded = load.load_config(options.config, *_with_source(options, overrides))
    folder = folders.create_run_folder(loaded.config)
    is_new = is_first_process()
    if is_new:
        folders.write_config(loaded.config, folder, arguments)
    origin = f"{options.config}, prior preset {loaded.prior.preset}"
    return [Plan("train", loaded.config, folder, None, is_new, origin)]


def _with_source(
    options: argparse.Namespace, overrides: dict[str, str], required: bool = True
) -> tuple[dict[str, str], Earlier | None]:
    """The overrides without the source, and the run that it names."""
    earlier = resume.find_earlier(options.config, overrides, required)
    return {key: text for key, text in overrides.items() if key != "source"}, earlier


def _asked(options: argparse.Namespace, overrides: dict[str, str], is_pipeline: bool) -> RunConfig:
    """The configuration that the command line asks for; of a pipeline its first stage's, under the pipeline's name."""
    if is_pipeline:
        first = pipeline.load_stages(pipeline.read_pipeline(options.config), overrides)[0].config
        return replace(first, name=options.config.stem)
    return load.load_config(options.config, *_with_source(options, overrides, required=False)).config


def _plan_from_checkpoint(
    option: str,
    place: Path,
    options: argparse.Namespace,
    arguments: Sequence[str],
    overrides: dict[str, str],
    of_pipeline: bool,
) -> Plan:
    folder, checkpoint = find_checkpoint(option, place)
    source = overrides.pop("source", None)  # the run has begun: what it took over lies in its checkpoint
    saved, wanted = load.load_saved(folder / CONFIG_FILE, overrides)
    if source is not None:
        resume.check_same_source(option, folder, saved, source)
    if options.config is not None and not of_pipeline:
        resume.check_same_name(option, folder, saved, load.load_config(options.config, overrides).config)
    resume.check_changes(option, folder, saved, wanted, options.mode)

    def record() -> None:
        folders.write_config(wanted, folder, arguments)

    return Plan(options.mode, wanted, folder, checkpoint, False, str(folder / CONFIG_FILE), record=record)


def _plan_new_pipeline(options: argparse.Namespace, arguments: Sequence[str], overrides: dict[str, str]) -> list[Plan]:
    top, left = pipeline.begin(options.config, overrides, arguments)
    return [Plan("train", run.config, run.folder, None, True, run.origin, top) for run in left]


def _plan_rest_of_pipeline(top: Path, arguments: Sequence[str], overrides: dict[str, str]) -> list[Plan]:
    left = pipeline.go_on(top, overrides)

    def record() -> None:  # for all stages at once: an interruption of the first keeps what was said of the next
        for run in left:
            folders.write_config(run.config, run.folder, arguments)

    plans = [Plan("train", run.config, run.folder, run.checkpoint, False, run.origin, pipeline=top) for run in left]
    if plans:
        plans[0] = replace(plans[0], record=record)
    return plans


def how_to_resume(plan: Plan | None) -> str:
    """The command that goes on with an interrupted run."""
    if plan is None or plan.mode != "train":
        return "nothing was lost; give the same command again"
    if plan.pipeline is None and is_finished(plan.folder, plan.config):
        return f"the run is finished; its results are in {plan.folder}"
    if not checkpoints(plan.folder) and not has_finished_stages(plan):
        return "there is no checkpoint yet; start again"
    return f"go on with: python launch.py --resume {shlex.quote(str(plan.pipeline or plan.folder))}"


def has_finished_stages(plan: Plan) -> bool:
    """Whether a pipeline has come beyond its first stage."""
    return plan.pipeline is not None and plan.folder != folders.stage_folders(plan.pipeline)[0]


def beyond_the_end(config: RunConfig) -> list[str]:
    """Remarks on schedules of noise levels that would change only after the run's last iteration."""
    found = []
    for name, knots in vars(config.noise).items() if config.guidance.reads == "latents" else ():
        at, value = knots[-1]
        if at >= config.iterations and value != value_at(knots, config.iterations - 1):
            found.append(
                f"noise.{name} comes to {value:g} at iteration {at:g}, beyond this run's {config.iterations}; for an "
                f"earlier change: noise.{name}='[[iteration,value],...]'"
            )
    return found
