"""Train what the bundled multi-view prior has beside the bundled prior: joint attention and the camera.

    python -m priors.world.dataset --views 4 --pictures 8000
    python -m priors.train_multiview --data outputs/priors/world

Starts from the weights of ``priors/mini``. Four views of one object are one sample: the same noise level, and mostly a
caption without a view word, since the camera says it. Only the layers that ``trained`` names change; the others are
shared with the bundled prior, so that little has to be stored.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from files.checksums import write_checksums
from priors.assemble import DEFAULT_PRIOR
from priors.caption_table import CaptionTable, with_view
from priors.convolution import use_matrix_products
from priors.fitting import FitConfig, fit
from priors.multiview_network import VIEWS, WEIGHTS, camera_condition, join_views, multiview_unet
from priors.train_diffusion import REFRESH_EVERY, LatentPool, build_scheduler, loss_weight, tokenize
from priors.world.dataset import render_dataset

VIEW_NAMED = 0.3  # share of the groups whose captions have view words


def trained(name: str) -> bool:
    """Whether a parameter of the UNet differs from the bundled prior's: attention, and how time and camera come in."""
    return (
        name.startswith("class_embedding.")
        or "time_emb_proj" in name
        or (".attentions." in name and ".ff." not in name and ".norm3." not in name)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("outputs/priors/world"))
    parser.add_argument("--prior", type=Path, default=DEFAULT_PRIOR)
    parser.add_argument("--out", type=Path, default=Path("outputs/priors/multiview"))
    parser.add_argument("--objects", type=int, default=8_000)
    parser.add_argument("--begin-with", type=int, help="objects to start with; another process renders the rest")
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--groups", type=int, default=8, help="of four views, in a batch")
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--minutes", type=float, default=math.inf, help="train for this long, instead of --steps")
    parser.add_argument("--max-minutes", type=float, default=math.inf, help="of this call; a later one goes on")
    args = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not args.begin_with:
        render_dataset(args.data, args.objects, views=VIEWS)
    pool = LatentPool(args.data, args.objects, args.prior / "vae", device, VIEWS)
    pool.refresh()
    while len(pool) < VIEWS * (args.begin_with or args.objects):
        time.sleep(1)
        pool.refresh()

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(args.prior / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(args.prior / "text_encoder").to(device).eval().requires_grad_(False)
    captions = CaptionTable(lambda texts: tokenize(tokenizer, texts), device)
    unet = multiview_unet(UNet2DConditionModel.from_pretrained(args.prior / "unet").float()).to(device)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(trained(name))
    join_views(unet, VIEWS, AttnProcessor() if device.type == "cpu" else AttnProcessor2_0())
    if device.type == "cpu":
        use_matrix_products(unet)
    else:
        unet.to(memory_format=torch.channels_last)
    alphas_cumprod = build_scheduler().alphas_cumprod.to(device)
    weights = loss_weight(alphas_cumprod)
    batches = itertools.count()

    def loss_of(generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        if len(pool) < VIEWS * args.objects and next(batches) % REFRESH_EVERY == 0:
            pool.refresh()
        n = args.groups
        objects = torch.randint(len(pool) // VIEWS, (n,), generator=generator, device=device)
        index = (objects[:, None] * VIEWS + torch.arange(VIEWS, device=device)).flatten()
        choice = captions.choose(pool.labels[objects * VIEWS], generator)
        named = torch.rand(n, generator=generator, device=device) < VIEW_NAMED
        choice = with_view(choice, named).repeat_interleave(VIEWS)
        strata = torch.arange(n, device=device) + torch.rand(n, generator=generator, device=device)
        t = (strata / n * len(alphas_cumprod)).long().clamp(max=len(alphas_cumprod) - 1).repeat_interleave(VIEWS)
        noise = torch.randn(len(index), *pool.latents.shape[1:], generator=generator, device=device)
        alpha, sigma = alphas_cumprod[t].sqrt().view(-1, 1, 1, 1), (1 - alphas_cumprod[t]).sqrt().view(-1, 1, 1, 1)
        noisy = alpha * pool.latents[index].float() + sigma * noise
        with torch.no_grad():
            text = text_encoder(captions.tokens_of(pool.labels[index], choice)).last_hidden_state
        predicted = unet(noisy, t, text, class_labels=camera_condition(pool.c2w[index])).sample.float()
        error = (predicted - noise).square().mean(dim=(1, 2, 3))
        levels = {f"mse{i + 1}/4": part.mean() for i, part in enumerate(error.detach().chunk(4))}
        return (weights[t] * error).mean(), {"mse": error.mean(), **levels}

    steps = args.steps if math.isinf(args.minutes) else 10**9
    config = FitConfig(steps, args.groups, args.lr, minutes=args.minutes, max_minutes=args.max_minutes)
    average = fit(unet, loss_of, config, args.out / "training.pt", "multi-view")
    folder = args.out / "mini-mv"
    folder.mkdir(exist_ok=True)
    changed = {n: p.half().cpu().contiguous() for n, p in average.named_parameters() if trained(n)}
    save_file(changed, folder / WEIGHTS, metadata={"format": "pt"})
    write_checksums(folder)
    print(f"{sum(p.numel() for p in changed.values()) * 2 / 1e6:.1f} MB of weights differ from the prior's")


if __name__ == "__main__":
    main()
