"""Train, test or export from one command; ``python launch.py --help`` shows how.

Reads the configuration, finds or makes the run's folder, says what it will do, and does it. A mistake
of the user's ends it with one message; ``configs/errors.py`` says what counts as one.

Exit status: 0 done, and all results are there; 2 a user's mistake, or too little GPU memory; 3 the scene collapsed;
4 trained, but a particle has no surface, so that its models are missing; 130 interrupted. A bug has its traceback
and 1.
"""

from __future__ import annotations

import os

# OpenMP's threads spin while they wait for each other. Where something else uses the cores, one that spins for long
# takes the time that the other needs to arrive. One that never spins is put to sleep and woken thousands of times an
# iteration, which takes as long as the work. 20,000 rounds are a fraction of a millisecond: docs/install.md.
# OpenMP reads these when PyTorch loads it, so they must be set before any import of PyTorch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

# None of these imports PyTorch, which takes seconds: help and mistakes in keys and values don't wait for it.
from configs.errors import MISTAKES, ConfigError, describe, is_disk_error, is_user_mistake
from configs.help import help_on, section_names
from configs.sources import config_files, find_file, pipeline_files, split_overrides
from runs.checkpoint_files import checkpoints, is_whole
from runs.folder import discard_if_unused, stage_folders
from runs.plan import (
    Plan,
    Request,
    beyond_the_end,
    device_remarks,
    has_finished_stages,
    how_to_resume,
    make_plans,
    require_prior,
)
from runs.processes import is_first_process, requeue, slurm_job
from runs.program import program
from settings.schedules import Knots
from systems.outputs import reports
from systems.signals import stopping_like_ctrl_c

DONE, MISTAKE, COLLAPSED, NO_SURFACE, INTERRUPTED = 0, 2, 3, 4, 130

DESCRIPTION = """\
Turn a prompt into a 3D object by Variational Score Distillation.

  key=value   any field of a run, such as prompt="a red mug" render.size=96 particles=4; --help SECTION lists those of
              a section, --help all every one
  prior=...   mini (bundled, the default), sd15, sd21, sdxl, sd35, flux, a folder in diffusers' format, or a hub id
              (owner/name): the frozen text-to-image model, with the settings of configs/prior/<name>.yaml
  from=RUN    for the stages geometry and texture: the run to go on from, its folder or one of its checkpoints;
              prompt, particles, seed, prior and the world's radius are that run's
  from=FILE   for nerf, geometry and texture: your own mesh (.glb, .gltf, .obj, .ply, .stl) to start from; from.up and
              from.front name its axes, such as from.up=z
  A pipeline (configs/prolific.yaml) runs several stages: key=value is for all, STAGE.key=value for one.
"""
LESS_MEMORY = (
    "needs less: a lower render.volume.rays_per_chunk, prior.precision=bf16, estimator.gradient_checkpointing=true; "
    "or, in a new run, memory=low, fewer render.views, guidance.shared_pass=false, or a smaller prior"
)
EXAMPLES = """\
examples:
  {program} --config configs/vsd-nerf.yaml prompt="a blue chair"
  {program} --config configs/vsd-nerf.yaml prompt="a blue chair" prior=sd21 logger=wandb
  {program} --config configs/vsd-nerf.yaml prompt="a blue chair" --resume last iterations=2000
  {program} --resume outputs/vsd-nerf/a-blue-chair/RUN
  {program} --config configs/prolific.yaml prompt="a blue chair" geometry.iterations=500
  {program} --config configs/vsd-geometry.yaml from=outputs/vsd-nerf/a-blue-chair/RUN
  {program} --config configs/vsd-texture.yaml from=outputs/vsd-geometry/a-blue-chair/RUN
  {program} --config configs/vsd-texture.yaml from=chair.glb prompt="a blue chair"
  {program} --mode export --checkpoint outputs/vsd-texture/a-blue-chair/RUN export.texture_size=2048

A run lies in outputs/<config>/<prompt>/<run>/; its config.yaml holds every setting. Runs are never overwritten.
Exit status: 0 done, 2 a mistake in what was asked for, 3 the scene collapsed, 4 trained but a particle has no surface
(a pipeline stops there), 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status; bugs leave as exceptions."""
    with stopping_like_ctrl_c():
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    plan = None
    try:
        asked = parse_arguments(arguments)
        if isinstance(asked, str):
            return show(asked)
        plans = make_plans(asked)
        if not plans:
            print("nothing is left to do: all stages are finished")
        for plan in plans:
            announce(plan)
            status = carry_out(plan)
            if status != DONE:
                return status
        return DONE
    except MISTAKES as error:
        if "--traceback" in arguments or not is_user_mistake(error):
            raise
        told = plan is not None and has_finished_stages(plan)  # how to resume
        remedy = f"\n{how_to_resume(plan)}" if is_disk_error(error) and not told else ""
        return give_up(MISTAKE, f"error: {describe(error)}{remedy}", plan)
    except KeyboardInterrupt:
        return give_up(INTERRUPTED, f"interrupted; {how_to_resume(plan)}", plan)
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        # A Ctrl-C that stops training at once: Lightning tidies up and exits with 1.
        return give_up(INTERRUPTED, f"interrupted; {how_to_resume(plan)}", plan)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"command line: {message}; --help shows what there is")


def parse_arguments(arguments: Sequence[str]) -> Request | str:
    """What is asked for; a help text where that is.

    Raises:
        ConfigError: an unknown option or section, options that exclude each other, or no key=value.
    """
    parser = _Parser(
        prog=program(),
        description=DESCRIPTION + f"\nSections: {', '.join(section_names())}\n",
        epilog=EXAMPLES.format(program=program()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    help_help = "show this, or the fields of a section such as guidance, or of 'all', with types, defaults and units"
    parser.add_argument("--help", "-h", nargs="?", const="", metavar="SECTION", help=help_help)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="fields to set, after all else")
    config_help = "what to do: vsd-nerf or another of the project's own, or a YAML file"
    parser.add_argument("--config", type=lambda name: find_file(Path(name)), metavar="FILE", help=config_help)
    mode_help = "train (the default); test: a turntable and figures of a checkpoint; export: its models (GLB and more)"
    parser.add_argument("--mode", choices=("train", "test", "export"), default="train", help=mode_help)
    resume_help = "go on from a checkpoint or a run's folder, or from the 'last' run of this config and prompt"
    parser.add_argument("--resume", metavar="PATH", help=resume_help)
    parser.add_argument("--checkpoint", metavar="PATH", help="what to test or export: a checkpoint or a run's folder")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    options = parser.parse_intermixed_args(arguments)
    if options.help is not None:
        return help_on(options.help) if options.help else parser.format_help()
    if options.checkpoint and options.resume:
        raise ConfigError("command line: --checkpoint and --resume are both given; keep one")
    if options.checkpoint and options.mode == "train":
        raise ConfigError("--checkpoint: is for --mode test and --mode export; to train on from it, use --resume")
    if options.mode != "train" and not (options.checkpoint or options.resume):
        raise ConfigError(f"--mode {options.mode}: needs --checkpoint PATH (a checkpoint or a run's folder)")
    if options.config is None and options.resume in (None, "last") and not options.checkpoint:
        known = ", ".join(f"configs/{path.name}" for path in [*pipeline_files(), *config_files()])
        raise ConfigError(f"--config: missing; give one of {known}, or your own file")
    overrides = split_overrides(options.overrides)
    return Request(options.mode, options.config, overrides, options.resume, options.checkpoint, arguments)


def show(text: str) -> int:
    """Print a help text; a reader such as ``head`` may have enough of it before its end."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
    return DONE


def announce(plan: Plan) -> None:
    """Say what will be done, once for all processes, and by which settings; those that decide most come first."""
    if not is_first_process():
        return

    config, cameras = plan.config, plan.config.cameras
    lines = {
        "config": f"{plan.origin}, on {config.trainer.accelerator}",
        "prompt": config.prompt,
        "prior": config.guidance.clip_model
        if config.guidance.reads == "images"
        else f"{config.prior.path}, precision {config.prior.precision}",
        "loss": f"{config.guidance.loss}, guidance scale {config.guidance.guidance_scale:g}",
        "length": f"{config.iterations} iterations for each of {config.particles} particle(s)",
        "render": f"{config.render.views} view(s) of {config.render.size} px"
        + ("" if config.render.scale == [[0, 1.0]] else f", scaled by {_knots(config.render.scale)}"),
        "cameras": f"distance {_range(cameras.distance)}, fovy {_range(cameras.fovy_deg)} deg, "
        f"elevation {_range(cameras.elevation_deg)} deg",
        "noise": f"t up to {_knots(config.noise.t_max)}",
        "folder": str(plan.folder),
    }
    if config.source is not None:
        lines["source"] = config.source
    elif config.source_mesh.path is not None:
        lines["mesh"] = config.source_mesh.path
    if plan.checkpoint is not None:
        lines["go on"] = str(plan.checkpoint)
    remarks = [*beyond_the_end(config), *device_remarks(config)] if plan.mode == "train" else []
    if plan.checkpoint is not None:
        damaged = [path for path in checkpoints(plan.folder) if not is_whole(path)]
        remarks += [f"{path} is cut off or damaged, and not used" for path in damaged]
    for name, text in [*lines.items(), *(("note", remark) for remark in remarks)]:
        print(f"{name:<8} {text}", flush=True)


def _range(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:g} to {bounds[1]:g}"


def _knots(knots: Knots) -> str:
    return ", ".join(f"{value:g} at {at:g}" for at, value in knots)


def carry_out(plan: Plan) -> int:
    """Do what was planned; a collapse and an interruption after a whole iteration are results too."""
    require_prior(plan)  # before all that follows is imported, which takes seconds
    import torch

    from runs import from_checkpoint, train
    from systems.collapse import CollapseError

    config = plan.config
    if plan.mode != "train" and not is_first_process():  # one process is enough; more would write the same files
        return DONE
    try:
        if plan.mode == "train":
            train.train(config, plan.folder, plan.checkpoint, plan.record)
        else:
            # Beside the training's own results, so that those of another checkpoint don't replace them.
            folder = plan.folder / plan.mode / plan.checkpoint.stem
            if plan.mode == "test":
                figures = from_checkpoint.test(config, folder, plan.checkpoint)
                print("\n".join(reports.test_lines(figures)))
            else:
                from_checkpoint.export(config, folder, plan.checkpoint)
            print(f"written to {folder}")
    except CollapseError as error:
        return give_up(COLLAPSED, f"error: the run collapsed: {error}", plan)
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
        return give_up(MISTAKE, f"error: {reason}\n{LESS_MEMORY}\n{how_to_resume(plan)}", plan)
    except train.Interrupted as interruption:
        how = how_to_resume(plan)
        if interruption.requeue and slurm_job() is not None and is_first_process():
            how = f"{requeue()}\nby hand, {how}"
        return give_up(INTERRUPTED, f"interrupted; {how}", plan)
    return report_training(plan) if plan.mode == "train" else DONE


def report_training(plan: Plan) -> int:
    """Say what a finished run has left, once for all processes; a missing surface has a status of its own."""
    if not is_first_process():  # Lightning ends all processes where one of these has a status other than 0
        return DONE
    summary = reports.read_summary(plan.folder)
    print("\n".join(reports.training_lines(plan.folder, summary)), flush=True)
    if not summary["problems"]:
        return DONE
    key = "KEY=VALUE" if plan.pipeline is None else "STAGE.KEY=VALUE"
    lines = ["error: trained, but not every particle has a surface; the other results are there", *summary["problems"]]
    if plan.pipeline is not None and plan.folder != stage_folders(plan.pipeline)[-1]:
        lines.append("the next stage goes on from these surfaces, so it was not begun")
    lines.append(f"for more iterations or other settings, {how_to_resume(plan)} {key}")
    return give_up(NO_SURFACE, "\n".join(lines), plan)


def give_up(status: int, message: str, plan: Plan | None) -> int:
    """Print a message on stderr, and leave no folder of a run that never began."""
    first, *rest = message.splitlines()
    print("\n".join([first, *(f"  {line}" for line in rest)]), file=sys.stderr, flush=True)
    if plan is not None and status == MISTAKE and has_finished_stages(plan):
        print(f"  the stages before are kept; {how_to_resume(plan)}", file=sys.stderr, flush=True)
    if plan is not None and plan.is_new:
        discard_if_unused(plan.pipeline or plan.folder)
    return status


def command() -> NoReturn:
    """The program as a process of its own; ``prolific`` of an installed copy."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a prompt may hold letters that the terminal lacks
    sys.exit(main())


if __name__ == "__main__":
    command()
