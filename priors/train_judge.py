"""Train the judge on pictures of the closed world.

    python -m priors.train_judge --data outputs/priors/world --out priors/judge

The loss is the sum of the heads' cross-entropies and of CLIP's symmetric contrastive loss with
captions drawn anew at every use. Pictures are mirrored, shifted and blurred at random, so that the
judge also reads reconstructions and soft renders.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from priors.caption_table import CaptionTable
from priors.fitting import FitConfig, first_process_first, fit, join_processes
from priors.judge_model import DEFAULT_JUDGE, JUDGE_SIZE, Judge, load_judge, save_judge
from priors.world.captions import ATTRIBUTES
from priors.world.dataset import THRESHOLDS, render_dataset

CONTRASTIVE_WEIGHT = 0.5


def augment(pictures: Float[Tensor, "batch 3 64 64"], generator: torch.Generator) -> Float[Tensor, "batch 3 64 64"]:
    """Mirror half, blur a third, shift all by up to three pixels (edge pixels repeated)."""
    n = len(pictures)
    mirrored = torch.rand(n, generator=generator, device=pictures.device) < 0.5
    pictures = torch.where(mirrored.view(-1, 1, 1, 1), pictures.flip(-1), pictures)
    blurred = torch.rand(n, generator=generator, device=pictures.device) < 0.33
    soft = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    pictures = torch.where(blurred.view(-1, 1, 1, 1), soft, pictures)
    # One shift for the batch, taken by index so that a GPU needs no wait.
    top, left = torch.randint(0, 7, (2, 1), generator=generator, device=pictures.device)
    row = torch.arange(JUDGE_SIZE, device=pictures.device)
    return F.pad(pictures, (3, 3, 3, 3), mode="replicate")[..., (top + row)[:, None], left + row]


def shrink(images: UInt8[Tensor, "n size size 3"]) -> UInt8[Tensor, "n 3 64 64"]:
    """World pictures averaged down to what the judge sees, channels first."""
    return F.adaptive_avg_pool2d(images.permute(0, 3, 1, 2).float(), JUDGE_SIZE).round().byte()


def away_from_view_borders(
    labels: list[dict], azimuth_margin_deg: float = 10.0, elevation_margin_deg: float = 5.0
) -> Bool[Tensor, "n"]:
    """Pictures whose view word is not a matter of taste: a margin off every border between words."""
    azimuth = torch.tensor([abs((row["azimuth_deg"] + 180) % 360 - 180) for row in labels])
    elevation = torch.tensor([row["elevation_deg"] for row in labels])
    t = THRESHOLDS
    clear = ((elevation - t.overhead_deg).abs() > elevation_margin_deg) & (
        (elevation - t.bottom_deg).abs() > elevation_margin_deg
    )
    by_azimuth = (elevation <= t.overhead_deg) & (elevation >= t.bottom_deg)
    clear_azimuth = ((azimuth - t.front_deg).abs() > azimuth_margin_deg) & (
        (azimuth - (180 - t.back_deg)).abs() > azimuth_margin_deg
    )
    return clear & (clear_azimuth | ~by_azimuth)


def contrastive_loss(
    pictures: Float[Tensor, "n dim"], texts: Float[Tensor, "n dim"], tokens: Int[Tensor, "n tokens"], scale: Tensor
) -> Tensor:
    """CLIP's symmetric loss of pairs of unit vectors.

    Equal captions are no negatives of each other: the target is shared among them. Empty ones don't take part.
    """
    named = (tokens >= 0).any(dim=-1)
    same = (tokens[:, None] == tokens[None]).all(dim=-1) & named
    similarity = scale * pictures @ texts.T
    nothing = torch.finfo(similarity.dtype).min

    def one_way(similarity: Float[Tensor, "n n"]) -> Tensor:
        logs = similarity.masked_fill(~named, nothing).log_softmax(dim=-1)
        target = same / same.sum(dim=-1, keepdim=True).clamp(min=1)
        return -(target * logs).sum(dim=-1)[named].mean()

    return (one_way(similarity) + one_way(similarity.T)) / 2


@torch.no_grad()
def measure(judge: Judge, images: UInt8[np.ndarray, "n size size 3"], labels: list[dict]) -> dict[str, float]:
    """Accuracy of each head on world pictures; the view is counted away from its borders."""
    batches = torch.from_numpy(images).permute(0, 3, 1, 2).split(250)
    found = [judge(batch.float() / 255) for batch in batches]
    clear = away_from_view_borders(labels)
    accuracy = {}
    for name in ATTRIBUTES:
        truth = torch.tensor([row[name] for row in labels])
        right = torch.cat([judgement.logits[name] for judgement in found]).argmax(dim=-1) == truth
        accuracy[name] = (right[clear] if name == "view" else right).float().mean().item()
    return accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("outputs/priors/world"))
    parser.add_argument("--work", type=Path, default=Path("outputs/priors/judge"))
    parser.add_argument("--out", type=Path, default=DEFAULT_JUDGE)
    parser.add_argument("--pictures", type=int, default=16_000)
    parser.add_argument("--held-out-pictures", type=int, default=2_000, help="of the pairs that the prior never sees")
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--data-seed", type=int, default=0)
    parser.add_argument("--fresh-pictures", type=int, default=4_000, help="to measure it on, of each kind")
    parser.add_argument("--minutes", type=float, default=math.inf, help="train for this long, instead of --steps")
    parser.add_argument("--max-minutes", type=float, default=math.inf)
    parser.add_argument("--start-from", type=Path, help="folder of a trained judge to go on from")
    args = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shrunk, labels = [], []
    for count, held_out in ((args.pictures, False), (args.held_out_pictures, True)):
        with first_process_first():
            images, rows = render_dataset(args.data, count, args.data_seed, held_out)
        shrunk.extend(shrink(batch) for batch in torch.from_numpy(images).split(500))
        labels.extend(rows)
    pictures = torch.cat(shrunk).to(device)
    truth = torch.tensor([[row[name] for name in ATTRIBUTES] for row in labels], device=device)
    del images, shrunk
    torch.manual_seed(1)
    judge = Judge()
    if args.start_from is not None:
        judge.load_state_dict(load_judge(args.start_from).state_dict())
    judge.requires_grad_(True).to(device, memory_format=torch.channels_last)
    captions = CaptionTable(judge.tokenize, device)

    def loss_of(generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        index = torch.randint(len(pictures), (args.batch_size,), generator=generator, device=device)
        x = augment(pictures[index].float() / 255, generator).contiguous(memory_format=torch.channels_last)
        judgement = judge(x)
        losses = {
            name: F.cross_entropy(judgement.logits[name].float(), truth[index, i], label_smoothing=0.02)
            for i, name in enumerate(ATTRIBUTES)
        }
        tokens = captions.draw(truth[index], generator)
        contrastive = contrastive_loss(
            judgement.embedding.float(), judge.embed_tokens(tokens).float(), tokens, judge.log_scale.exp()
        )
        return sum(losses.values()) + CONTRASTIVE_WEIGHT * contrastive, {**losses, "clip": contrastive}

    steps = args.steps if math.isinf(args.minutes) else 10**9
    config = FitConfig(
        steps, args.batch_size, args.lr, ema_decay=0.995, minutes=args.minutes, max_minutes=args.max_minutes
    )
    args.work.mkdir(parents=True, exist_ok=True)
    fit(judge, loss_of, config, args.work / "training.pt", "judge")
    if join_processes()[0] > 0:
        return
    # The last weights, not their average: batch normalisation's statistics belong to them, and the
    # learning rate has gone to almost nothing anyway.
    judge = judge.eval().cpu().to(memory_format=torch.contiguous_format)
    facts = {}
    for kind, held_out in (("fresh", False), ("held out", True)):
        for name, value in measure(judge, *render_dataset(args.data, args.fresh_pictures, 101, held_out)).items():
            facts[f"{name} accuracy, {kind} pictures"] = round(value, 4)
            print(f"{kind:9s} {name:8s} {value:.4f}")
    save_judge(judge, args.out, facts)


if __name__ == "__main__":
    main()
