"""How near finished runs of world prompts come to the world, where the judge's shares are all 100%.

    python -m benchmarks.world_distance outputs/vsd-nerf/a-red-mug/RUN outputs/prolific/a-red-mug/RUN/3-texture

For each run, over the eight judged views of its first particle: the distance of the judge's features to the nearest of
24 world instances of the prompt from the same camera, and the mean absolute Laplacian of the brightness, which tells
fine noise from blur. Of the world: the same distance among its instances, and the Laplacian of eight of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from benchmarks.judged_runs import attributes_of, judge_run
from benchmarks.text_to_3d import world_features
from evaluation.image_metrics import nearest_distance
from priors.judge_model import load_judge
from priors.world.appearance import render
from priors.world.dataset import draw_instance

INSTANCES = 24
LAPLACIAN = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]]).view(1, 1, 3, 3)


def roughness(pictures: Float[Tensor, "views 3 height width"]) -> float:
    """Mean absolute Laplacian of the brightness."""
    return F.conv2d(pictures.mean(1, keepdim=True), LAPLACIAN).abs().mean().item()


def main() -> None:
    """Print a row for each run, and one for the world of its prompt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    args = parser.parse_args()
    judge = load_judge()
    print("| what | distance | Laplacian |\n|---|---|---|")
    for folder in args.runs:
        run = judge_run(folder, judge)
        instances = world_features(judge, run, INSTANCES)
        world = instances.transpose(0, 1)  # views, instances, width
        among = torch.cdist(world, world).masked_fill(torch.eye(INSTANCES, dtype=torch.bool), torch.inf)
        class_name, color = attributes_of(run.prompt)
        things = [draw_instance(np.random.default_rng([5, i]), class_name, color, held_out=None) for i in range(8)]
        views = [torch.from_numpy(render(t.solid, t.appearance, run.cameras)).permute(0, 3, 1, 2) for t in things]
        rough = np.mean([roughness(view.float()) for view in views])
        print(f"| {run.prompt}, world | {among.min(-1).values.mean():.2f} | {rough:.4f} |")
        distance = nearest_distance(run.features[0], instances)
        print(f"| {run.prompt}, {folder} | {distance:.2f} | {roughness(run.pictures[0]):.4f} |", flush=True)


if __name__ == "__main__":
    main()
