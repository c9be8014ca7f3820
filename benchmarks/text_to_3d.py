"""Quality of the main job: many prompts of the bundled prior's world, judged from eight sides each.

    python -m benchmarks.text_to_3d                          # 24 prompts, one of each class; hours on two cores
    python -m benchmarks.text_to_3d --prompts 3              # the first three
    python -m benchmarks.text_to_3d --particles 4 --prompts 1
    python -m benchmarks.text_to_3d --jobs 2                 # two at a time, each with one thread

Runs ``launch.py`` once for each prompt, with everything at its default, skipping prompts whose run is
finished: interrupt and call again. A first stage that ``benchmarks.three_stages`` ran in the same folder is
such a run too. Then renders, judges and prints the table; a scene that collapsed counts as wrong in all views. Several
at a time finish sooner together, but their minutes are not those of a run that has the machine for itself.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.judged_runs import JudgedRun, attributes_of, diversity, judge_run
from configs.load import load_config, read_saved
from configs.sources import is_pipeline, split_overrides
from launch import COLLAPSED, DONE, NO_SURFACE
from priors.evaluate import contact_sheet
from priors.judge_model import Judge, load_judge
from priors.world.appearance import COLORS, render
from priors.world.captions import compose, held_out_pairs
from priors.world.classes import CLASSES
from priors.world.dataset import draw_instance
from runs.checkpoint_files import checkpoints
from runs.folder import slug, stage_folders
from runs.pipeline import load_stages, read_pipeline
from runs.resume import differences
from systems.layout import CONFIG_FILE

REPOSITORY = Path(__file__).resolve().parents[1]
WALL_SECONDS = "wall_seconds.json"
FIRST_STAGE = "1-nerf"  # of configs/prolific.yaml


def benchmark_prompts() -> list[str]:
    """One prompt a class; colours take turns, pairs that no training saw are left out."""
    prompts, colors = [], list(COLORS)
    for index, name in enumerate(CLASSES):
        allowed = [c for c in colors[index % 12 :] + colors if (name, c) not in held_out_pairs()]
        prompts.append(compose(name, allowed[0]))
    return prompts


def run_prompt(prompt: str, folder: Path, config: str, overrides: list[str], last: str = "summary.json") -> Path | None:
    """The run's folder, after running it to its end if it isn't there yet; None if it collapsed, or if it is a pipeline
    that a missing surface stopped. Its log is beside it.

    Args:
        last: the file that the run writes last.

    Raises:
        SystemExit: the run failed, or is of an earlier call with other settings.
    """
    folder = folder.absolute()  # the program runs elsewhere
    run = folder / Path(config).stem / slug(prompt) / "benchmark"
    if run.is_dir():
        check_settings(run, Path(config), [f"prompt={prompt}", *overrides])
    if (run / last).exists():
        return run
    if any(run.rglob("*.ckpt")):
        command = [sys.executable, "launch.py", "--resume", str(run)]
    else:
        command = [sys.executable, "launch.py", "--config", config, f"prompt={prompt}"]
        command += [f"output.folder={folder}", "output.run=benchmark", *overrides]
    log = folder / Path(config).stem / f"{slug(prompt)}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with open(log, "a", encoding="utf-8") as stream:
        status = subprocess.run(command, cwd=REPOSITORY, stdout=stream, stderr=subprocess.STDOUT).returncode
    if run.is_dir():
        path = run / WALL_SECONDS
        earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else 0.0
        path.write_text(json.dumps(earlier + time.monotonic() - started), encoding="utf-8")
    if status == COLLAPSED or (status == NO_SURFACE and not (run / last).exists()):
        return None
    if status not in (DONE, NO_SURFACE):
        raise SystemExit(f"{shlex.join(command)}: exit status {status}; its output is in {log}")
    return run


def check_settings(run: Path, config: Path, overrides: list[str]) -> None:
    """End the benchmark where a run that an earlier call made has other settings than those asked for now."""
    values = split_overrides(overrides)
    if is_pipeline(REPOSITORY / config):
        wanted = [stage.config for stage in load_stages(read_pipeline(REPOSITORY / config), values)]
        folders = stage_folders(run)
    else:
        wanted, folders = [load_config(REPOSITORY / config, values).config], [run]
    for folder, each in zip(folders, wanted, strict=True):
        saved = read_saved(folder / CONFIG_FILE)
        # A stage's source is known when it begins; what is written doesn't change what is judged.
        lines = differences(replace(saved, source=each.source, output=each.output), each, "anywhere")
        if lines:
            remedy = "choose another --folder, or give the same settings"
            raise SystemExit("\n".join([f"{folder} is of an earlier call with other settings:", *lines, remedy]))


def at_a_time(jobs: int, run: Callable[[str, list[str]], Path | None], prompts: list[str]) -> Iterator[Path | None]:
    """Run prompts, so many at a time, and yield their folders in order; ``run`` is given overrides for that."""
    overrides = ["trainer.threads=1"] if jobs > 1 else []
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda prompt: run(prompt, overrides), prompts)


def wall_seconds(run: Path) -> float:
    """What all calls for a run have taken together; a call that was killed doesn't count.

    Of a pipeline's stage it is the training alone.
    """
    path = run / WALL_SECONDS
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    return json.loads((run / "summary.json").read_text(encoding="utf-8"))["training_seconds"]


def megabytes(run: Path) -> tuple[float, float]:
    """A run's largest checkpoint, and the most memory that its training held."""
    checkpoint = max(path.stat().st_size for path in checkpoints(run)) / 1e6
    return checkpoint, json.loads((run / "summary.json").read_text(encoding="utf-8"))["peak_memory_mb"]


@torch.no_grad()
def world_features(
    judge: Judge, run: JudgedRun, count: int, seed: int = 5, pattern: str | None = None
) -> Float[Tensor, "count views width"]:
    """Features of fresh instances of the prompt, in any pattern or in one, seen by the run's cameras."""
    class_name, color = attributes_of(run.prompt)
    features = []
    for index in range(count):
        thing = draw_instance(np.random.default_rng([seed, index]), class_name, color, pattern, held_out=None)
        rgb = render(thing.solid, thing.appearance, run.cameras)
        features.append(judge(torch.from_numpy(rgb).permute(0, 3, 1, 2).float()).features)
    return torch.stack(features)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/vsd-nerf.yaml")
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmark"))
    parser.add_argument("--prompts", type=int, default=len(CLASSES), help="how many of the prompts")
    parser.add_argument("--particles", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args()

    overrides = [*args.overrides, f"particles={args.particles}"]
    is_default = not args.overrides and args.particles == 1 and Path(args.config).stem == "vsd-nerf"

    def run(prompt: str, more: list[str]) -> Path | None:
        first_stage = args.folder / "prolific" / slug(prompt) / "benchmark" / FIRST_STAGE
        if is_default and (first_stage / "summary.json").exists():
            check_settings(first_stage, Path(args.config), [f"prompt={prompt}"])
            return first_stage
        return run_prompt(prompt, args.folder, args.config, [*overrides, *more])

    judge, runs, sizes, prompts = load_judge(), [], [], benchmark_prompts()[: args.prompts]
    print("| prompt | minutes | class | colour | R-precision | view |\n|---|---|---|---|---|---|")
    for prompt, folder in zip(prompts, at_a_time(args.jobs, run, prompts), strict=True):
        if folder is None:
            print(f"| {prompt} | collapsed | | | | |", flush=True)
            continue
        runs.append(judge_run(folder, judge))
        sizes.append(megabytes(folder))
        print(f"| {runs[-1].prompt} | {wall_seconds(folder) / 60:.1f} | {_row(runs[-1])} |", flush=True)
    if not runs:
        raise SystemExit("every run collapsed: nothing to compare")
    mean = {key: sum(getattr(run, key) for run in runs) / len(prompts) for key in _FIGURES}
    print("| **mean** | | " + " | ".join(f"{mean[key]:.1%}" for key in _FIGURES) + " |")
    print("largest checkpoint {:.1f} MB, peak memory {:.0f} MB".format(*map(max, zip(*sizes, strict=True))))
    if args.particles > 1:
        own = np.mean([diversity(run.features) for run in runs])
        world = np.mean([diversity(world_features(judge, run, args.particles)) for run in runs])
        print(f"diversity of particles {own:.3f}, of world instances {world:.3f}, ratio {own / world:.2f}")
    contact_sheet(torch.cat([run.pictures[0] for run in runs]), 8, args.folder / "contact_sheet.png")


_FIGURES = ("class_right", "color_right", "r_precision", "view_right")


def _row(run: JudgedRun) -> str:
    return " | ".join(f"{getattr(run, key):.1%}" for key in _FIGURES)


if __name__ == "__main__":
    main()
