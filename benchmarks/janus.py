"""Second fronts: how often an object shows its front from two sides, without view words in the prompts.

    python -m benchmarks.janus                                  # 8 prompts, 2 seeds, two priors, VSD and SDS: hours
    python -m benchmarks.janus --prompts 4 --seeds 1 --losses vsd --jobs 2

Each result is seen from eight sides. The judge names the view of each picture. Two sides that lie 90 degrees or more
apart and are both called "front" are a second front: a true object has at most two neighbouring ones, 45 degrees
apart. The prompts are of classes whose front nobody takes for a side. Finished runs are kept: interrupt and call again.
"""

from __future__ import annotations

import argparse
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from benchmarks.judged_runs import VIEWS, judge_run
from benchmarks.text_to_3d import run_prompt
from priors.evaluate import contact_sheet
from priors.judge_model import load_judge

PROMPTS = (
    "a red duck",
    "a blue robot",
    "a white rabbit",
    "a brown bear",
    "a white snowman",
    "a green television",
    "a yellow clock",
    "a gray camera",
)
PRIORS = ("mini", "mini-mv")
LOSSES = ("vsd", "sds")
FARTHEST = 1  # neighbours that may both be called front, in steps of 360 / VIEWS degrees


def has_second_front(front: Bool[Tensor, "views"]) -> bool:
    """Whether two of the sides, which go around in order, are called front and aren't neighbours."""
    sides = front.nonzero().flatten().tolist()
    apart = [min((a - b) % len(front), (b - a) % len(front)) for a, b in itertools.combinations(sides, 2)]
    return any(steps > FARTHEST for steps in apart)


def main() -> None:
    """Run, judge and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/janus"))
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many of the prompts")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=LOSSES)
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    args = parser.parse_args()

    judge = load_judge()
    cases = list(itertools.product(args.losses, PRIORS))

    def run(what: tuple[tuple[str, str], int, str]) -> Path | None:
        (loss, prior), seed, prompt = what
        overrides = [f"prior={prior}", f"seed={seed}", "text.view_template={prompt}", "particles=1"]
        overrides += ["trainer.threads=1"] if args.jobs > 1 else []
        return run_prompt(prompt, args.folder / f"{prior}-{seed}", f"configs/{loss}-nerf.yaml", overrides)

    print("| loss | prior | results | with a second front | class right |\n|---|---|---|---|---|")
    runs = [(case, seed, prompt) for case in cases for seed in range(args.seeds) for prompt in PROMPTS[: args.prompts]]
    with ThreadPoolExecutor(args.jobs) as pool:
        found = dict(zip(runs, pool.map(run, runs), strict=True))
    for case in cases:
        folders = [folder for (of, _, _), folder in found.items() if of == case and folder is not None]
        judged = [judge_run(folder, judge) for folder in folders]
        fronts = [torch.tensor([word == "front" for word in judge(each.pictures[0]).words("view")]) for each in judged]
        second = sum(map(has_second_front, fronts))
        right = sum(each.class_right for each in judged) / max(len(judged), 1)
        print(f"| {case[0]} | {case[1]} | {len(judged)} | {second} | {right:.1%} |", flush=True)
        contact_sheet(torch.cat([each.pictures[0] for each in judged]), VIEWS, args.folder / f"{'-'.join(case)}.png")


if __name__ == "__main__":
    main()
