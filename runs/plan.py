"""From a command line to what is to be done: new runs, the rest of a run or a pipeline, tests, exports."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs import load, sources
from configs.errors import ConfigError
from configs.schema import RunConfig
from guidance.hub import check_hub_id
from runs import folder as folders
from runs import pipeline, resume
from runs.checkpoint_files import checkpoints, find_checkpoint, is_finished, was_only_begun
from runs.processes import check_processes, is_first_process
from runs.program import program
from settings.schedules import value_at
from systems.layout import CONFIG_FILE


@dataclass(frozen=True)
class Request:
    """What a command line asks for."""

    mode: str  # train | test | export
    config: Path | None  # YAML of a run or a pipeline; None: that of the run to go on from
    overrides: dict[str, str]  # key=value, as typed
    resume: str | None  # a checkpoint, a run's folder, or "last"
    checkpoint: str | None  # the same, to test or export
    arguments: Sequence[str]  # all of the command line, for the record in config.yaml


@dataclass(frozen=True)
class Plan:
    """What a command line amounts to."""

    mode: str  # train | test | export
    config: RunConfig
    folder: Path  # of the run
    checkpoint: Path | None  # to go on from, or to test or export; None: from the beginning
    is_new: bool  # the folder was made for this run, by this process
    origin: str  # of the configuration, for the announcement
    pipeline: Path | None = None  # the folder of the pipeline that the run is a stage of
    record: Callable[[], None] | None = None  # writes what a resumption changes, once nothing speaks against it


def make_plans(request: Request) -> list[Plan]:
    """What to do, in order: one run, or those of a pipeline that aren't finished.

    Raises:
        ConfigError: a mistake in the command line, a file, a checkpoint's place or the output folder.
    """
    config = request.config
    is_pipeline = config is not None and config.is_file() and sources.is_pipeline(config)
    if not (request.resume or request.checkpoint):
        return _new_pipeline(request) if is_pipeline else [_new_run(request)]
    option = "--checkpoint" if request.checkpoint else "--resume"
    place = Path(request.checkpoint or request.resume).expanduser()
    if request.resume == resume.LAST:
        place = resume.find_last(_asked(request, is_pipeline))
    if folders.stage_folders(place):
        if config is not None and not is_pipeline:
            raise ConfigError(f"{option}: {place} is a pipeline's folder, --config a single stage; leave out --config")
        if request.mode == "train":
            return _rest_of_pipeline(place, request)
        place = pipeline.newest_stage(place)
    elif is_pipeline:
        raise ConfigError(f"{option}: {place} is no pipeline's folder; leave out --config, or give such a folder")
    return [_from_checkpoint(option, place, request, is_pipeline)]


def _new_run(request: Request) -> Plan:
    loaded = _load(request)
    check_processes(loaded.config.trainer)
    requeued = folders.requeued_folder(loaded.config, request.arguments)
    if requeued is not None:
        return _from_checkpoint("--resume", requeued, request, of_pipeline=False)
    folder = folders.create_run_folder(loaded.config, request.arguments)
    is_new = is_first_process()
    if is_new:
        folders.write_config(loaded.config, folder, request.arguments)
    origin = f"{request.config}, prior preset {loaded.prior.preset}"
    return Plan("train", loaded.config, folder, None, is_new, origin)


def _load(request: Request, source_required: bool = True) -> load.LoadedConfig:
    """The configuration that is asked for, with what it takes over from the run that ``from=`` names."""
    earlier = resume.find_earlier(request.config, request.overrides, source_required)
    overrides = {key: text for key, text in request.overrides.items() if key != "source"}
    return load.load_config(request.config, overrides, earlier)


def _asked(request: Request, is_pipeline: bool) -> RunConfig:
    """The configuration that is asked for; of a pipeline its first stage's, under the pipeline's name."""
    if not is_pipeline:
        return _load(request, source_required=False).config
    first = pipeline.load_stages(pipeline.read_pipeline(request.config), request.overrides)[0].config
    return replace(first, name=request.config.stem)


def _from_checkpoint(option: str, place: Path, request: Request, of_pipeline: bool) -> Plan:
    folder, checkpoint = place, None
    if request.mode != "train" or not was_only_begun(place):
        folder, checkpoint = find_checkpoint(option, place)
    overrides = dict(request.overrides)
    source = overrides.pop("source", None)  # the run has begun: what it took over lies in its checkpoint
    mesh = overrides.pop(sources.MESH, None)
    saved, wanted = load.load_saved(folder / CONFIG_FILE, overrides)
    if mesh is not None:
        resume.check_same_mesh(option, folder, saved, mesh)
    if source is not None:
        resume.check_same_source(option, folder, saved, source)
    if request.config is not None and not of_pipeline:
        resume.check_same_name(option, folder, saved, load.load_config(request.config, overrides).config)
    resume.check_changes(option, folder, saved, wanted, request.mode)
    if request.mode == "train":
        check_processes(wanted.trainer)

    def record() -> None:
        folders.write_config(wanted, folder, request.arguments)

    return Plan(request.mode, wanted, folder, checkpoint, False, str(folder / CONFIG_FILE), record=record)


def _new_pipeline(request: Request) -> list[Plan]:
    requeued = pipeline.requeued_folder(request.config, request.overrides, request.arguments)
    if requeued is not None:
        return _rest_of_pipeline(requeued, request)
    top, left = pipeline.begin(request.config, request.overrides, request.arguments)
    return [Plan("train", run.config, run.folder, None, True, run.origin, top) for run in left]


def _rest_of_pipeline(top: Path, request: Request) -> list[Plan]:
    left = pipeline.go_on(top, request.overrides)

    def record() -> None:  # for all stages at once: an interruption of the first keeps what was said of the next
        for run in left:
            folders.write_config(run.config, run.folder, request.arguments)

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
    return f"go on with: {program()} --resume {shlex.quote(str(plan.pipeline or plan.folder))}"


def has_finished_stages(plan: Plan) -> bool:
    """Whether a pipeline has come beyond its first stage."""
    return plan.pipeline is not None and plan.folder != folders.stage_folders(plan.pipeline)[0]


def beyond_the_end(config: RunConfig) -> list[str]:
    """Remarks on schedules of noise levels that would change only after the run's last iteration."""
    found = []
    reads_noise = config.guidance.reads == "latents" and config.iterations > 0
    for name, knots in vars(config.noise).items() if reads_noise else ():
        at, value = knots[-1]
        if at >= config.iterations and value != value_at(knots, config.iterations - 1):
            found.append(
                f"noise.{name} comes to {value:g} at iteration {at:g}, beyond this run's {config.iterations}; for an "
                f"earlier change: noise.{name}='[[iteration,value],...]'"
            )
    return found


def device_remarks(config: RunConfig) -> list[str]:
    """What is known to be missing on the run's device."""
    if config.trainer.accelerator != "mps":
        return []
    return [
        "trainer.accelerator=mps was never tried: running sums along rays go through the CPU, since mps has no "
        "float64; for operations that it lacks set PYTORCH_ENABLE_MPS_FALLBACK=1; the stages geometry and texture "
        "need trainer.accelerator=cpu"
    ]


def require_prior(plan: Plan) -> None:
    """Raise a FileNotFoundError where training needs a model of the hub that is neither in its cache nor to be had."""
    prior = plan.config.prior
    is_bundled = Path(prior.path).parts[:1] == ("priors",)
    if plan.mode == "train" and plan.config.guidance.reads == "latents" and not is_bundled:
        check_hub_id(prior.path, prior.revision)
