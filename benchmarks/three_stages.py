"""All three stages on prompts of the bundled prior's world: judged, and compared with the true shapes.

    python -m benchmarks.three_stages                # 12 prompts; hours on two cores
    python -m benchmarks.three_stages --prompts 2    # the first two
    python -m benchmarks.three_stages --jobs 2       # two at a time, each with one thread; minutes are longer then

Runs ``configs/prolific.yaml`` once for each prompt with everything at its default, skipping prompts whose run is
finished: interrupt and call again. The table gives for each stage the judge's view of eight renders, and the distance
of its features to the nearest of 24 world instances of the prompt by the same cameras; for stages 1 and 2 volume IoU
and Chamfer distance of the surface, before any simplification, to the nearest of 64 world instances (which may be
another one by IoU than by Chamfer distance); for stage 3 the PSNR of the exported GLB's renders against the texture
field's, and what Khronos' validator says of the GLB. Below it stand Frechet distances to those instances, and to as
many plain ones: the prompts name no pattern, and half of the world has one. Of so few pictures they are biased
upwards: compare them with each other, and with that of one more world instance of each prompt. A run that collapsed
counts as wrong in all views; means of shapes are over the prompts for which both stages have one, all other figures
over the runs that are there.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.judged_runs import JudgedRun, attributes_of, judge_run
from benchmarks.text_to_3d import (
    FIRST_STAGE,
    at_a_time,
    benchmark_prompts,
    run_prompt,
    wall_seconds,
    world_features,
)
from benchmarks.world_shapes import ShapeScore, shape_score
from configs.load import load_saved
from evaluation.bake_fidelity import BakeFidelity, bake_fidelity
from evaluation.gltf_validator import GltfValidator
from evaluation.image_metrics import frechet_distance, nearest_distance
from models.mesh import Mesh, Surface
from priors.evaluate import contact_sheet
from priors.judge_model import load_judge
from runs.checkpoint_files import find_checkpoint
from runs.from_checkpoint import load_scene
from systems.layout import CONFIG_FILE

STAGES = (FIRST_STAGE, "2-geometry", "3-texture")
WORLD_INSTANCES = 24  # of each prompt, for the Frechet distance
SHAPE_STAGES = STAGES[:2]  # the third keeps the second's shape


@dataclass(frozen=True)
class StageResult:
    """One prompt after one stage."""

    judged: JudgedRun
    distance: float  # to the nearest world instance
    shape: ShapeScore | None
    bake: BakeFidelity | None  # of the exported GLB


def first_surface(folder: Path) -> Surface:
    """The surface of a run's first particle, at full resolution, on the CPU."""
    folder, checkpoint = find_checkpoint("--run", folder)
    _, config = load_saved(folder / CONFIG_FILE, {"trainer.accelerator": "cpu"})
    return load_scene(config, checkpoint)[0].surface(0)


def as_mesh(surface: Surface) -> Mesh:
    vertices = surface.vertices.float()
    return Mesh(vertices, surface.faces, torch.zeros_like(vertices))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmark"))
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args()

    judge = load_judge()
    results: dict[str, list[StageResult]] = {stage: [] for stage in STAGES}
    worlds: dict[str, list[Float[Tensor, "views width"]]] = {"any": [], "plain": []}  # by the instances' pattern
    real: dict[str, list[Float[Tensor, "views width"]]] = {"any": [], "plain": []}
    unscored: list[str] = []
    try:
        validate, reports = GltfValidator(args.folder / "gltf-validator"), []
    except OSError as error:
        raise SystemExit(f"{error}; install npm, without which the models cannot be judged") from error
    print("| prompt | minutes | stage | class | colour | view | distance | IoU | Chamfer | bake, dB |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    prompts = benchmark_prompts()[::2][: args.prompts]

    def run(prompt: str, more: list[str]) -> Path | None:
        last = f"{STAGES[-1]}/summary.json"
        return run_prompt(prompt, args.folder, "configs/prolific.yaml", [*args.overrides, *more], last)

    for prompt, top in zip(prompts, at_a_time(args.jobs, run, prompts), strict=True):
        if top is None:
            print(f"| {prompt} | collapsed | | | | | | | | |", flush=True)
            continue
        minutes = wall_seconds(top) / 60
        instances = None
        for stage in STAGES:
            judged = judge_run(top / stage, judge)
            if instances is None:  # one more than the world needs, in place of a result: what a perfect one would reach
                for pattern in ("plain", "any"):
                    wanted = None if pattern == "any" else pattern
                    *found, perfect = world_features(judge, judged, WORLD_INSTANCES + 1, pattern=wanted)
                    worlds[pattern] += found
                    real[pattern].append(perfect)
                instances = torch.stack(found)
            shape, bake = None, None
            try:
                surface = first_surface(top / stage)
                if stage in SHAPE_STAGES:
                    shape = shape_score(as_mesh(surface), attributes_of(prompt)[0])
                else:
                    reports.append(validate(top / stage / "mesh.glb"))
                    bake = bake_fidelity(surface, top / stage / "mesh.glb", judged.cameras)
            except ValueError as error:  # an empty surface, or an open one, which encloses nothing
                unscored.append(f"{prompt}, {stage}: {error}")
            distance = nearest_distance(judged.features[0], instances)
            results[stage].append(StageResult(judged, distance, shape, bake))
            print(f"| {prompt} | {minutes:.1f} | {stage} | {_row([results[stage][-1]])} |", flush=True)
    if not worlds["any"]:
        raise SystemExit("every run collapsed: nothing to compare")
    pairs = list(zip(*(results[stage] for stage in SHAPE_STAGES), strict=True))
    for index, pair in enumerate(pairs):  # the same prompts in both means
        if any(each.shape is None for each in pair):
            for stage in SHAPE_STAGES:
                results[stage][index] = replace(results[stage][index], shape=None)
    for stage, found in results.items():
        print(f"| **mean** | | {stage} | {_row(found, len(prompts))} |")
    errors, warnings = (sum(getattr(report, name) for report in reports) for name in ("errors", "warnings"))
    print(f"glTF validator, {len(reports)} models: {errors} errors, {warnings} warnings")
    for note in unscored:
        print(f"no shape score, and not in the mean: {note}")
    print("| Frechet distance to instances | of one more instance | " + " | ".join(STAGES) + " |")
    print("|---|---|---|---|---|")
    for pattern, world in worlds.items():
        sets = [torch.cat(real[pattern])]
        sets += [torch.cat([each.judged.features[0] for each in found]) for found in results.values()]
        distances = " | ".join(f"{frechet_distance(features, torch.cat(world)):.1f}" for features in sets)
        print(f"| of {pattern} pattern | {distances} |")
    for stage, found in results.items():
        pictures = torch.cat([each.judged.pictures[0] for each in found])
        contact_sheet(pictures, 8, args.folder / f"{stage}.png")


def _row(results: list[StageResult], runs: int = 1) -> str:
    """The figures of some of so many runs; the others collapsed."""
    keys = ("class_right", "color_right", "view_right")
    shares = [sum(getattr(each.judged, key) for each in results) / runs for key in keys]
    distance = f"{np.mean([each.distance for each in results]):.2f}" if results else ""
    shapes = [each.shape for each in results if each.shape is not None]
    lengths = [
        f"{np.mean([getattr(each, key) for each in shapes]):.3f}" if shapes else "" for key in ("iou", "chamfer")
    ]
    bakes = [each.bake.whole for each in results if each.bake is not None]
    last = f"{np.mean(bakes):.1f}" if bakes else ""
    return " | ".join([*(f"{share:.1%}" for share in shares), distance, *lengths, last])


if __name__ == "__main__":
    main()
