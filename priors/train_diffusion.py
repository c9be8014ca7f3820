"""Train the bundled prior's UNet and text encoder, together and from scratch, on the closed world.

    python -m priors.train_diffusion --data outputs/priors/world --autoencoder outputs/priors/autoencoder

Latent diffusion as in Stable Diffusion 1: epsilon-prediction, its noise schedule, text by
cross-attention. What differs is the size, that the text encoder learns along, captions drawn anew
at every use, and a loss weight that makes all noise levels count about equally.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from jaxtyping import Float, Float16, Int, UInt8
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from priors.caption_table import CaptionTable
from priors.convolution import use_matrix_products
from priors.fitting import FitConfig, first_process_first, fit, join_processes
from priors.tokenizer import MAX_TOKENS, build_tokenizer
from priors.train_autoencoder import to_unit_range
from priors.world.captions import ATTRIBUTES, vocabulary
from priors.world.dataset import cameras_of, finished_shards, load_shard, render_dataset

TEXT_WIDTH = 128
MIN_SNR_GAMMA = 5.0
REFRESH_EVERY = 100  # steps between two looks for new pictures


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule. ``clip_sample`` must be off: latents leave [-1, 1]."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def build_unet(latent_channels: int) -> UNet2DConditionModel:
    """The untrained network: convolutions at 16x16, cross-attention to the text at 8x8 and 4x4."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=(96, 192, 256),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # diffusers reads this as the number of heads here
        norm_num_groups=16,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The untrained text encoder."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def loss_weight(alphas_cumprod: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """(min(SNR, gamma) / SNR) / alpha_t: every noise level has about the same share of the loss.

    The first factor is Hang et al. 2023 ("Min-SNR"), eq. 5, for epsilon-prediction: it keeps a small
    network from spending itself on the last bit of noise. The second lifts the noisiest levels, where
    the error in epsilon is small (about proportional to alpha_t) and yet the layout of the picture is
    decided: without it the network learnt classes and colours, but hardly the words for views.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return snr.clamp(max=MIN_SNR_GAMMA) / snr / alphas_cumprod.sqrt()


class LatentPool:
    """Scaled latents and labels of the pictures that are rendered by now, on the training's device."""

    def __init__(
        self, data: Path, objects: int, autoencoder_folder: Path, device: torch.device, views: int = 1
    ) -> None:
        self.data, self.objects, self.views, self.device = data, objects, views, device
        self.autoencoder = AutoencoderKL.from_pretrained(autoencoder_folder).to(device)
        channels = self.autoencoder.config.latent_channels
        self.latents: Float16[Tensor, "n channels 16 16"] = torch.empty(0, channels, 16, 16, device=device).half()
        self.labels: Int[Tensor, "n attributes"] = torch.empty(0, len(ATTRIBUTES), dtype=torch.long, device=device)
        self.c2w: Float[Tensor, "n 4 4"] = torch.empty(0, 4, 4, device=device)
        self.taken: set[Path] = set()

    def __len__(self) -> int:
        return len(self.latents)

    @torch.no_grad()
    def refresh(self) -> None:
        """Encode what was rendered since the last call."""
        new = [path for path in finished_shards(self.data, self.objects, views=self.views) if path not in self.taken]
        latents, labels, c2w = [self.latents], [self.labels], [self.c2w]
        for path in tqdm(new, desc="encoding the pictures", disable=len(new) < 2, mininterval=5):
            images, rows = load_shard(path)
            latents.extend(self._encode(batch) for batch in torch.from_numpy(images).to(self.device).split(50))
            labels.append(torch.tensor([[row[name] for name in ATTRIBUTES] for row in rows], device=self.device))
            c2w.append(cameras_of(rows).c2w.to(self.device))
        with torch.autocast(self.device.type, enabled=False):  # else it may refuse half precision on a CPU
            self.latents, self.labels, self.c2w = torch.cat(latents), torch.cat(labels), torch.cat(c2w)
        self.taken.update(new)

    def _encode(self, pictures: UInt8[Tensor, "n height width 3"]) -> Float16[Tensor, "n channels 16 16"]:
        with torch.autocast(self.device.type, torch.bfloat16):
            mean = self.autoencoder.encode(to_unit_range(pictures)).latent_dist.mode()
        return (mean.float() * self.autoencoder.config.scaling_factor).half()


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Int[Tensor, "batch tokens"]:
    """Token ids padded to the model's length, as diffusers' pipelines pad them."""
    return tokenizer(captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")[
        "input_ids"
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("outputs/priors/world"))
    parser.add_argument("--autoencoder", type=Path, default=Path("outputs/priors/autoencoder"))
    parser.add_argument("--out", type=Path, default=Path("outputs/priors/diffusion"))
    parser.add_argument("--pictures", type=int, default=16_000)
    parser.add_argument("--steps", type=int, default=6_000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--minutes", type=float, default=math.inf, help="train for this long, instead of --steps")
    parser.add_argument("--max-minutes", type=float, default=math.inf, help="of this call; a later one goes on")
    parser.add_argument(
        "--begin-with", type=int, help="start as soon as this many pictures are there; another process renders the rest"
    )
    parser.add_argument("--start-from", type=Path, help="pipeline folder with weights, such as priors/mini")
    args = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.begin_with:
        with first_process_first():
            render_dataset(args.data, args.pictures)
    pool = LatentPool(args.data, args.pictures, args.autoencoder, device)
    pool.refresh()
    while len(pool) < (args.begin_with or args.pictures):
        time.sleep(1)
        pool.refresh()

    torch.manual_seed(0)
    tokenizer = build_tokenizer(vocabulary())
    captions = CaptionTable(lambda texts: tokenize(tokenizer, texts), device)
    channels = pool.latents.shape[1]
    module = nn.ModuleDict({"unet": build_unet(channels), "text_encoder": build_text_encoder(tokenizer)})
    if args.start_from is not None:
        module["unet"].load_state_dict(UNet2DConditionModel.from_pretrained(args.start_from / "unet").state_dict())
        text_encoder = CLIPTextModel.from_pretrained(args.start_from / "text_encoder")
        module["text_encoder"].load_state_dict(text_encoder.state_dict())
    module.to(device)
    if device.type == "cpu":
        module["unet"].set_attn_processor(AttnProcessor())  # torch's fused attention is slow backwards on a CPU
        use_matrix_products(module["unet"])
    else:
        module["unet"].to(memory_format=torch.channels_last)
    alphas_cumprod = build_scheduler().alphas_cumprod.to(device)
    weights = loss_weight(alphas_cumprod)
    batches = itertools.count()

    def loss_of(generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        if len(pool) < args.pictures and next(batches) % REFRESH_EVERY == 0:
            pool.refresh()
        n = args.batch_size
        index = torch.randint(len(pool), (n,), generator=generator, device=device)
        tokens = captions.draw(pool.labels[index], generator)
        # One timestep from each of n equal strata: the same distribution, a quieter gradient.
        strata = torch.arange(n, device=device) + torch.rand(n, generator=generator, device=device)
        t = (strata / n * len(alphas_cumprod)).long().clamp(max=len(alphas_cumprod) - 1)
        noise = torch.randn(n, *pool.latents.shape[1:], generator=generator, device=device)
        alpha, sigma = alphas_cumprod[t].sqrt().view(-1, 1, 1, 1), (1 - alphas_cumprod[t]).sqrt().view(-1, 1, 1, 1)
        noisy = alpha * pool.latents[index].float() + sigma * noise
        text = module["text_encoder"](tokens).last_hidden_state
        error = (module["unet"](noisy, t, text).sample.float() - noise).square().mean(dim=(1, 2, 3))
        # Timesteps grow along the batch: the quarters of the batch are quarters of the noise levels.
        levels = {f"mse{i + 1}/4": part.mean() for i, part in enumerate(error.detach().chunk(4))}
        return (weights[t] * error).mean(), {"mse": error.mean(), **levels}

    steps = args.steps if math.isinf(args.minutes) else 10**9
    config = FitConfig(steps, args.batch_size, args.lr, minutes=args.minutes, max_minutes=args.max_minutes)
    average = fit(module, loss_of, config, args.out / "training.pt", "diffusion")
    if join_processes()[0] > 0:
        return
    average["unet"].save_pretrained(args.out / "unet")
    average["text_encoder"].save_pretrained(args.out / "text_encoder")
    tokenizer.save_pretrained(args.out / "tokenizer")
    build_scheduler().save_pretrained(args.out / "scheduler")


if __name__ == "__main__":
    main()
