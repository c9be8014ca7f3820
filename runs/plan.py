"""From a command line to what is to be done: new runs, the rest of a run or a pipeline, tests, exports."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from configs import sources
from configs.errors import ConfigError

if TYPE_CHECKING:  # importing PyTorch takes seconds: the plainest mistakes don't wait for it
    from configs.lineage import Earlier
    from configs.schema import RunConfig


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
    if options.config is not None:  # a file's own mistakes are told before PyTorch is imported
        is_pipeline = options.config.is_file() and sources.is_pipeline(options.config)
        if not is_pipeline:
            sources.read_config(options.config)
    if "prior" in overrides:
        sources.choose_prior(overrides["prior"])
    if not (options.resume or options.checkpoint):
        plan = _plan_new_pipeline if is_pipeline else _plan_new_run
        return plan(options, arguments, overrides)

    from configs import pipeline, resuming

    option = "--checkpoint" if options.checkpoint else "--resume"
    place = Path(options.checkpoint or options.resume).expanduser()
    if options.resume == resuming.LAST:
        place = pipeline.find_last(options.config, overrides) if is_pipeline else _find_last(options, overrides)
    if pipeline.stage_folders(place):
        if options.config is not None and not is_pipeline:
            raise ConfigError(f"{option}: {place} is a pipeline's folder, --config a single stage; leave out --config")
        if options.mode == "train":
            return _plan_rest_of_pipeline(place, arguments, overrides)
        place = pipeline.newest_stage(place)
    elif is_pipeline:
        raise ConfigError(f"{option}: {place} is no pipeline's folder; leave out --config, or give such a folder")
    return [_plan_from_checkpoint(option, place, options, arguments, overrides, is_pipeline)]


def _plan_new_run(options: argparse.Namespace, arguments: Sequence[str], overrides: dict[str, str]) -> list[Plan]:
    from configs import load, runs

    loaded = load.load_config(options.config, *_with_source(options, overrides))
    folder = runs.create_run_folder(loaded.config)
    is_new = runs.is_first_process()
    if is_new:
        runs.write_config(loaded.config, folder, arguments)
    origin = f"{options.config}, prior preset {loaded.prior.preset}"
    return [Plan("train", loaded.config, folder, None, is_new, origin)]


def _with_source(
    options: argparse.Namespace, overrides: dict[str, str], required: bool = True
) -> tuple[dict[str, str], Earlier | None]:
    """The overrides without the source, and the run that it names."""
    from configs import resuming

    earlier = resuming.find_earlier(options.config, overrides, required)
    return {key: text for key, text in overrides.items() if key != "source"}, earlier


def _find_last(options: argparse.Namespace, overrides: dict[str, str]) -> Path:
    from configs import load, resuming

    return resuming.find_last(
        load.load_config(options.config, *_with_source(options, overrides, required=False)).config
    )


def _plan_from_checkpoint(
    option: str,
    place: Path,
    options: argparse.Namespace,
    arguments: Sequence[str],
    overrides: dict[str, str],
    of_pipeline: bool,
) -> Plan:
    from configs import load, resuming, runs

    folder, checkpoint = resuming.find_checkpoint(option, place)
    source = overrides.pop("source", None)  # the run has begun: what it took over lies in its checkpoint
    saved, wanted = load.load_saved(folder / runs.CONFIG_FILE, overrides)
    if source is not None:
        resuming.check_same_source(option, folder, saved, source)
    if options.config is not None and not of_pipeline:
        resuming.check_same_name(option, folder, saved, load.load_config(options.config, overrides).config)
    resuming.check_changes(option, folder, saved, wanted, options.mode)

    def record() -> None:
        runs.write_config(wanted, folder, arguments)

    return Plan(options.mode, wanted, folder, checkpoint, False, str(folder / runs.CONFIG_FILE), record=record)


def _plan_new_pipeline(options: argparse.Namespace, arguments: Sequence[str], overrides: dict[str, str]) -> list[Plan]:
    from configs import pipeline

    top, left = pipeline.begin(options.config, overrides, arguments)
    return [Plan("train", run.config, run.folder, None, True, run.origin, top) for run in left]


def _plan_rest_of_pipeline(top: Path, arguments: Sequence[str], overrides: dict[str, str]) -> list[Plan]:
    from configs import pipeline, runs

    left = pipeline.go_on(top, overrides)

    def record() -> None:  # for all stages at once: an interruption of the first keeps what was said of the next
        for run in left:
            runs.write_config(run.config, run.folder, arguments)

    plans = [Plan("train", run.config, run.folder, run.checkpoint, False, run.origin, pipeline=top) for run in left]
    if plans:
        plans[0] = replace(plans[0], record=record)
    return plans


def how_to_resume(plan: Plan | None) -> str:
    """The command that goes on with an interrupted run."""
    if plan is None or plan.mode != "train":
        return "nothing was lost; give the same command again"
    from configs.pipeline import is_finished
    from configs.runs import checkpoints

    if plan.pipeline is None and is_finished(plan.folder, plan.config):
        return f"the run is finished; its results are in {plan.folder}"
    if not checkpoints(plan.folder) and not has_finished_stages(plan):
        return "there is no checkpoint yet; start again"
    return f"go on with: python launch.py --resume {shlex.quote(str(plan.pipeline or plan.folder))}"


def has_finished_stages(plan: Plan) -> bool:
    """Whether a pipeline has come beyond its first stage."""
    from configs.pipeline import stage_folders

    return plan.pipeline is not None and plan.folder != stage_folders(plan.pipeline)[0]
