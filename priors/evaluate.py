"""Measure the bundled prior with the judge, and print the table.

    python -m priors.evaluate                        # every class, colour and view; minutes on two cores
    python -m priors.evaluate --every 8              # one prompt in eight, for a quick look

Samples every class-colour-view prompt once (patterns take turns), judges the pictures, and compares
their features with those of fresh world pictures of the same attributes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from evaluation.image_metrics import frechet_distance, r_precision
from priors.assemble import DEFAULT_PRIOR
from priors.judge_model import DEFAULT_JUDGE, Judge, Judgement, load_judge
from priors.train_autoencoder import psnr
from priors.world.appearance import COLORS, PATTERNS
from priors.world.captions import compose, held_out_pairs
from priors.world.classes import CLASSES
from priors.world.dataset import draw_instance, sample_instance
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


@torch.no_grad()
def sample_pictures(
    pipeline: StableDiffusionPipeline, prompts: list[str], steps: int, scale: float, seed: int, batch_size: int = 48
) -> Float[Tensor, "n 3 64 64"]:
    """Pictures in [0, 1] from the pipeline's own sampler."""
    pipeline.set_progress_bar_config(disable=True)
    generator, pictures = torch.Generator().manual_seed(seed), []
    for start in tqdm(range(0, len(prompts), batch_size), desc="sampling the prior"):
        with torch.autocast("cpu", torch.bfloat16):
            result = pipeline(
                prompts[start : start + batch_size],
                num_inference_steps=steps,
                guidance_scale=scale,
                generator=generator,
                output_type="pt",
            )
        pictures.append(result.images.float())
    return torch.cat(pictures)


def world_pictures(requests: list[Request], seed: int) -> UInt8[np.ndarray, "n 64 64 3"]:
    """A fresh world picture for each request."""
    return np.stack(
        [
            draw_instance(
                np.random.default_rng([seed, i]), request.class_name, request.color, request.pattern, request.view, None
            ).picture()
            for i, request in enumerate(tqdm(requests, desc="rendering the world"))
        ]
    )


@torch.no_grad()
def judge_pictures(judge: Judge, pictures: Float[Tensor, "n 3 64 64"]) -> Judgement:
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
    """Write pictures as a grid, at twice their size."""
    n, _, h, w = pictures.shape
    rows = -(-n // columns)
    sheet = torch.ones(rows * columns, 3, h, w)
    sheet[:n] = pictures.clamp(0, 1)
    sheet = sheet.view(rows, columns, 3, h, w).permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, 3)
    image = Image.fromarray((sheet * 255).round().byte().numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", type=Path, default=DEFAULT_PRIOR)
    parser.add_argument("--judge", type=Path, default=DEFAULT_JUDGE)
    parser.add_argument("--out", type=Path, default=Path("outputs/priors/evaluation"))
    parser.add_argument("--every", type=int, default=1, help="use one prompt in this many")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--scale", type=float, default=3.0, help="classifier-free guidance")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    judge = load_judge(args.judge)
    pipeline = StableDiffusionPipeline.from_pretrained(args.prior).to(torch.float32)
    requests = all_requests()[:: args.every]
    pictures = sample_pictures(pipeline, [r.prompt for r in requests], args.steps, args.scale, args.seed)
    contact_sheet(pictures[: 24 * 60 : max(1, len(pictures) // 120)][:120], 12, args.out / "contact_sheet.png")
    judgement = judge_pictures(judge, pictures)
    table = agreement(judge, judgement, requests)

    fresh = [torch.from_numpy(world_pictures(requests, seed)).permute(0, 3, 1, 2).float() / 255 for seed in (11, 12)]
    truths = [judge_pictures(judge, pictures) for pictures in fresh]
    table["judge on fresh world pictures, class"] = agreement(judge, truths[0], requests)["class"]
    table["Frechet distance, samples to fresh"] = frechet_distance(judgement.features, truths[0].features)
    table["Frechet distance, fresh to fresh"] = frechet_distance(truths[1].features, truths[0].features)
    vae: AutoencoderKL = pipeline.vae
    pictures_1k = torch.from_numpy(np.stack([sample_instance(1, i).picture() for i in range(1000)]))
    table["autoencoder PSNR on fresh pictures, dB"] = psnr(vae, pictures_1k)

    print(f"\n{len(requests)} prompts, {args.steps} steps, CFG {args.scale:g}, seed {args.seed}")
    for name, value in table.items():
        print(f"| {name} | {value:.3f} |")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
