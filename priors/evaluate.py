"""Measure the bundled prior with the judge, and print the table.

    python -m priors.evaluate                        # every class, colour and view, at guidance 1 and 3
    python -m priors.evaluate --every 8 --scales 3   # one prompt in eight, for a quick look

Samples every class-colour-view prompt once (patterns take turns), judges the pictures, and compares
their features with those of fresh world pictures of the same attributes. Diversity is the mean distance
between the features of two samples of one prompt, over that of two world pictures of the same prompt.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from evaluation.image_metrics import frechet_distance, r_precision
from files.whole_files import whole_file
from priors.assemble import DEFAULT_PRIOR
from priors.judge_model import DEFAULT_JUDGE, Judge, Judgement, load_judge
from priors.train_autoencoder import psnr
from priors.world.appearance import COLORS, PATTERNS
from priors.world.captions import compose, held_out_pairs
from priors.world.classes import CLASSES
from priors.world.dataset import VERSION, draw_instance, render_dataset, render_instances
from renderers.config import VIEW_WORDS


@dataclass(frozen=True)
class Request:
    """The attributes that one prompt asks for."""

    class_name: str
    color: str
    pattern: str
    view: str

    @property
    def prompt(self) -> str:
        return compose(self.class_name, self.color, self.pattern, self.view)

    @property
    def held_out(self) -> bool:
        return (self.class_name, self.color) in held_out_pairs()


def all_requests() -> list[Request]:
    """Every class, colour and view once; the three patterns take turns."""
    return [
        Request(name, color, PATTERNS[(i + j + k) % len(PATTERNS)], view)
        for i, name in enumerate(CLASSES)
        for j, color in enumerate(COLORS)
        for k, view in enumerate(VIEW_WORDS)
    ]


def diversity_requests(samples: int) -> list[Request]:
    """One prompt for each class, colours, patterns and views in turns, each ``samples`` times in a row."""
    colors = list(COLORS)
    return [
        Request(name, colors[i % len(colors)], PATTERNS[i % len(PATTERNS)], VIEW_WORDS[i % len(VIEW_WORDS)])
        for i, name in enumerate(CLASSES)
        for _ in range(samples)
    ]


def pairwise_distance(features: Float[Tensor, "prompts samples width"]) -> float:
    """Mean distance between two different samples of one prompt.

    Raises:
        ValueError: fewer than two samples.
    """
    count = features.shape[1]
    if count < 2:
        raise ValueError(f"features: {count} samples of a prompt have no pairs; at least 2 are needed")
    distances = torch.cdist(features, features)  # a sample's distance to itself is 0
    return (distances.sum(dim=(1, 2)) / (count * (count - 1))).mean().item()


@torch.no_grad()
def sample_pictures(
    pipeline: StableDiffusionPipeline, prompts: list[str], steps: int, scale: float, seed: int, batch_size: int = 48
) -> Float[Tensor, "n 3 size size"]:
    """Pictures in [0, 1] from the pipeline's own sampler; networks in bfloat16, which is enough and faster."""
    pipeline.set_progress_bar_config(disable=True)
    generator, pictures = torch.Generator().manual_seed(seed), []
    for start in tqdm(range(0, len(prompts), batch_size), desc="sampling the prior"):
        with torch.autocast(pipeline.device.type, torch.bfloat16):
            result = pipeline(
                prompts[start : start + batch_size],
                num_inference_steps=steps,
                guidance_scale=scale,
                generator=generator,
                output_type="pt",
            )
        pictures.append(result.images.float().cpu())
    return torch.cat(pictures)


def world_pictures(requests: list[Request], seed: int, folder: Path) -> Float[Tensor, "n 3 size size"]:
    """A fresh world picture for each request, in [0, 1]; kept in ``folder`` for the next evaluation."""
    key = hashlib.sha256("\n".join(request.prompt for request in requests).encode()).hexdigest()[:12]
    path = folder / f"v{VERSION}-seed{seed}-prompts-{key}.npy"
    if not path.exists():
        instances = [
            draw_instance(np.random.default_rng([seed, i]), r.class_name, r.color, r.pattern, r.view, None)
            for i, r in enumerate(requests)
        ]
        images = render_instances(instances, "rendering the world")
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as unfinished, open(unfinished, "wb") as stream:
            np.save(stream, images)
    return torch.from_numpy(np.load(path)).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def judge_pictures(judge: Judge, pictures: Float[Tensor, "n 3 size size"]) -> Judgement:
    """The judge's view of all pictures, in batches."""
    found = [judge(batch) for batch in pictures.split(250)]
    return Judgement(
        {name: torch.cat([j.logits[name] for j in found]) for name in found[0].logits},
        torch.cat([j.embedding for j in found]),
        torch.cat([j.features for j in found]),
    )


def agreement(judge: Judge, judgement: Judgement, requests: list[Request]) -> dict[str, float]:
    """Shares of pictures that show what was asked for, over all requests and over held-out pairs."""
    right = {
        "class": torch.tensor([r.class_name == w for r, w in zip(requests, judgement.words("class"), strict=True)]),
        "colour": torch.tensor([r.color == w for r, w in zip(requests, judgement.words("color"), strict=True)]),
        "pattern": torch.tensor([r.pattern == w for r, w in zip(requests, judgement.words("pattern"), strict=True)]),
        "view": torch.tensor([r.view == w for r, w in zip(requests, judgement.words("view"), strict=True)]),
    }
    shares = {name: values.float().mean().item() for name, values in right.items()}
    held_out = torch.tensor([r.held_out for r in requests])
    if held_out.any():
        shares["held-out class and colour"] = (right["class"] & right["colour"])[held_out].float().mean().item()
    pairs = [(name, color) for name in CLASSES for color in COLORS]
    captions = judge.embed_text([compose(name, color) for name, color in pairs])
    truth = torch.tensor([pairs.index((r.class_name, r.color)) for r in requests])
    shares["R-precision"] = r_precision(judgement.embedding, captions, truth)
    for view in VIEW_WORDS:
        of_view = torch.tensor([r.view == view for r in requests])
        if of_view.any():
            shares[f"view, {view}"] = right["view"][of_view].float().mean().item()
    return shares


def contact_sheet(pictures: Float[Tensor, "n 3 h w"], columns: int, path: Path) -> None:
    """Write pictures as a grid; pictures below 128 pixels are shown at twice their size."""
    n, _, h, w = pictures.shape
    rows = -(-n // columns)
    sheet = torch.ones(rows * columns, 3, h, w)
    sheet[:n] = pictures.clamp(0, 1)
    sheet = sheet.view(rows, columns, 3, h, w).permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, 3)
    image = Image.fromarray((sheet * 255).round().byte().numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    zoom = 1 if h >= 128 else 2
    image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST).save(path)


def show_some(pictures: Float[Tensor, "n 3 h w"], path: Path) -> None:
    """A contact sheet of 120 pictures, evenly out of all."""
    contact_sheet(pictures[:: max(1, len(pictures) // 120)][:120], 12, path)


def evaluate_scale(
    pipeline: StableDiffusionPipeline,
    judge: Judge,
    requests: list[Request],
    repeated: list[Request],
    scale: float,
    args: argparse.Namespace,
) -> tuple[dict[str, float], Judgement]:
    """Agreement and diversity at one guidance scale, and what the judge sees in the samples of ``requests``."""
    pictures = sample_pictures(pipeline, [r.prompt for r in requests], args.steps, scale, args.seed, args.batch_size)
    show_some(pictures, args.out / f"samples_scale{scale:g}.png")
    judgement = judge_pictures(judge, pictures)
    table = agreement(judge, judgement, requests)
    samples = sample_pictures(pipeline, [r.prompt for r in repeated], args.steps, scale, args.seed + 1, args.batch_size)
    contact_sheet(samples, args.samples, args.out / f"diversity_scale{scale:g}.png")
    features = judge_pictures(judge, samples).features.unflatten(0, (-1, args.samples))
    table["pairwise distance of samples"] = pairwise_distance(features)
    return table, judgement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", type=Path, default=DEFAULT_PRIOR)
    parser.add_argument("--judge", type=Path, default=DEFAULT_JUDGE)
    parser.add_argument("--data", type=Path, default=Path("outputs/priors/world"), help="where world pictures are kept")
    parser.add_argument("--out", type=Path, default=Path("outputs/priors/evaluation"))
    parser.add_argument("--every", type=int, default=1, help="use one prompt in this many")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 3.0], help="classifier-free guidance")
    parser.add_argument("--samples", type=int, default=6, help="of each prompt whose diversity is measured")
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    judge = load_judge(args.judge)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipeline = StableDiffusionPipeline.from_pretrained(args.prior).to(device, torch.float32)
    requests, repeated = all_requests()[:: args.every], diversity_requests(args.samples)
    args.out.mkdir(parents=True, exist_ok=True)
    truth = [world_pictures(requests, seed, args.data) for seed in (11, 12)]
    show_some(truth[0], args.out / "world.png")
    fresh = [judge_pictures(judge, pictures) for pictures in truth]
    pictures = world_pictures(repeated, 13, args.data)
    contact_sheet(pictures, args.samples, args.out / "diversity_world.png")
    world = judge_pictures(judge, pictures).features
    floor = frechet_distance(fresh[1].features, fresh[0].features)
    spread = pairwise_distance(world.unflatten(0, (-1, args.samples)))
    pictures_1k = torch.from_numpy(render_dataset(args.data, 1000, seed=1)[0]).to(device)
    vae: AutoencoderKL = pipeline.vae
    tables = {
        "world": {
            **agreement(judge, fresh[0], requests),
            "pairwise distance of samples": spread,
            "Frechet distance": floor,
            "autoencoder PSNR on fresh pictures, dB": psnr(vae, pictures_1k),
        }
    }
    for scale in args.scales:
        table, judgement = evaluate_scale(pipeline, judge, requests, repeated, scale, args)
        table["diversity, share of the world's"] = table["pairwise distance of samples"] / spread
        table["Frechet distance"] = frechet_distance(judgement.features, fresh[0].features)
        table["Frechet distance, share of fresh to fresh"] = table["Frechet distance"] / floor
        tables[f"guidance {scale:g}"] = table
        # Written after every scale, so that an interruption loses no more than one.
        (args.out / "table.json").write_text(json.dumps(tables, indent=2) + "\n", encoding="utf-8")

    print(f"\n{len(requests)} prompts, {args.steps} steps, seed {args.seed}")
    names = list(dict.fromkeys(name for table in tables.values() for name in table))
    print("| |", " | ".join(tables), "|\n|---|" + "---|" * len(tables))
    for name in names:
        cells = [f"{table[name]:.3f}" if name in table else "" for table in tables.values()]
        print(f"| {name} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
