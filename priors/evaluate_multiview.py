"""Measure the bundled multi-view prior with the judge, and print the table.

    python -m priors.evaluate_multiview --groups 96

A group is four views of one object, sampled together by DDIM with classifier-free guidance, the prompt without a view
word. The judge names class and colour of each view, and the view; the camera says what is right. How well the views of
an object agree is the mean distance of the judge's features between two views of one sample, over that of two views of
one world object.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from priors.assemble import DEFAULT_PRIOR
from priors.evaluate import contact_sheet, judge_pictures, pairwise_distance
from priors.judge_model import load_judge
from priors.multiview_network import DEFAULT_MULTIVIEW, VIEWS, camera_condition, join_views, load_multiview_unet
from priors.train_diffusion import tokenize
from priors.train_judge import away_from_view_borders
from priors.world.captions import compose
from priors.world.dataset import cameras_of, render_instances, sample_group


@torch.no_grad()
def sample_groups(
    unet,
    prior: Path,
    prompts: list[str],
    c2w: Float[Tensor, "groups views 4 4"],
    steps: int,
    scale: float,
    seed: int,
    batch_size: int = 8,
) -> Float[Tensor, "groups views 3 size size"]:
    """Pictures in [0, 1] of every prompt's object from its cameras."""
    device, views = unet.device, c2w.shape[1]
    autoencoder = AutoencoderKL.from_pretrained(prior / "vae").float().to(device)
    tokenizer = CLIPTokenizer.from_pretrained(prior / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(prior / "text_encoder").to(device).eval()
    scheduler = DDIMScheduler.from_pretrained(prior / "scheduler")
    scheduler.set_timesteps(steps)
    generator, pictures = torch.Generator().manual_seed(seed), []
    for start in tqdm(range(0, len(prompts), batch_size), desc="sampling groups of views"):
        texts, cameras = prompts[start : start + batch_size], c2w[start : start + batch_size].flatten(0, 1)
        n = len(texts) * views
        tokens = tokenize(tokenizer, [*[""] * len(texts), *texts]).to(device)
        text = text_encoder(tokens).last_hidden_state.repeat_interleave(views, dim=0)
        condition = camera_condition(cameras.to(device)).repeat(2, 1)
        x = torch.randn(n, unet.config.in_channels, 16, 16, generator=generator).to(device)
        for t in scheduler.timesteps:
            with torch.autocast(device.type, torch.bfloat16):
                predicted = unet(x.repeat(2, 1, 1, 1), t, text, class_labels=condition).sample.float()
            unconditional, conditional = predicted.chunk(2)
            guided = unconditional + scale * (conditional - unconditional)
            x = scheduler.step(guided, t, x).prev_sample
        decoded = autoencoder.decode(x / autoencoder.config.scaling_factor).sample
        pictures.append((decoded / 2 + 0.5).clamp(0, 1).cpu())
    return torch.cat(pictures).unflatten(0, (-1, views))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", type=Path, default=DEFAULT_PRIOR)
    parser.add_argument("--multiview", type=Path, default=DEFAULT_MULTIVIEW)
    parser.add_argument("--groups", type=int, default=48)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--scale", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, default=Path("outputs/priors/multiview"))
    args = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    unet = load_multiview_unet(args.prior, args.multiview).to(device).eval()
    join_views(unet, VIEWS, AttnProcessor() if device.type == "cpu" else AttnProcessor2_0())
    groups = [sample_group(args.seed, index, VIEWS) for index in range(args.groups)]
    rows = [view.labels() for group in groups for view in group]
    prompts = [compose(group[0].class_name, group[0].color) for group in groups]
    cameras = cameras_of(rows).c2w.unflatten(0, (-1, VIEWS))
    world = torch.from_numpy(render_instances([view for group in groups for view in group], "rendering the world"))
    world = world.permute(0, 3, 1, 2).float() / 255
    samples = sample_groups(unet, args.prior, prompts, cameras, args.steps, args.scale, args.seed).flatten(0, 1)
    contact_sheet(samples, 2 * VIEWS, args.out / "samples.png")
    contact_sheet(world, 2 * VIEWS, args.out / "world.png")

    judge, clear = load_judge(), away_from_view_borders(rows)
    print(f"{args.groups} groups of {VIEWS} views, {args.steps} steps, guidance {args.scale:g}, seed {args.seed}")
    print("| | class | colour | view, away from borders | distance between views of an object |\n|---|---|---|---|---|")
    distances = {}
    for name, pictures in (("world", world), ("samples", samples)):
        judgement = judge_pictures(judge, pictures)
        right = {
            kind: torch.tensor(
                [word == other for word, other in zip(judgement.words(kind), truth, strict=True)]
            ).float()
            for kind, truth in (
                ("class", [view.class_name for group in groups for view in group]),
                ("color", [view.color for group in groups for view in group]),
                ("view", [view.view for group in groups for view in group]),
            )
        }
        distances[name] = pairwise_distance(judgement.features.unflatten(0, (-1, VIEWS)))
        shares = [right["class"].mean(), right["color"].mean(), right["view"][clear].mean()]
        print(f"| {name} | " + " | ".join(f"{share:.1%}" for share in shares) + f" | {distances[name]:.2f} |")
    print(f"distance between views, over the world's: {distances['samples'] / distances['world']:.2f}")


if __name__ == "__main__":
    main()
