"""Train the bundled prior's autoencoder (128x128 pictures to 16x16 latents) on the closed world.

    python -m priors.train_autoencoder --data outputs/priors/world --out outputs/priors/autoencoder

An ``AutoencoderKL`` of diffusers, kept narrow because at full resolution it is the slow part on a
CPU, trained on squared error with a small Kullback-Leibler term. Pictures are flipped and their
colour channels permuted now and then, so that the encoder also copes with the unfinished renders of
a distillation run.

``--start-from`` names a pipeline folder whose autoencoder sees the same pictures at half the size. Its
blocks become the inner blocks of the new one, and a further loss keeps the latents near its latents of
the picture at half the size. So a UNet that was trained on those latents can go on.

``--decoder-only`` goes on from ``--out`` with the decoder alone: the latents stay, and so do networks
that were trained on them.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from jaxtyping import Float, UInt8
from torch import Tensor

from priors.fitting import FitConfig, first_process_first, fit, join_processes
from priors.world.dataset import IMAGE_SIZE, render_dataset

LATENT_CHANNELS = 8
KL_WEIGHT = 1e-4  # per latent dimension, beside the mean squared error of pictures in [-1, 1]
ALIGNMENT_WEIGHT = 0.02  # of the squared distance to the earlier autoencoder's latents


def build_autoencoder() -> AutoencoderKL:
    """The untrained network, its residual branches switched off.

    With the last convolution of each residual block at zero the network starts as a short chain of
    convolutions, which learns much faster at a high learning rate (Goyal et al. 2017, section 5.1).
    """
    network = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=IMAGE_SIZE,
    )
    for module in network.modules():
        if isinstance(module, ResnetBlock2D):
            torch.nn.init.zeros_(module.conv2.weight)
            torch.nn.init.zeros_(module.conv2.bias)
    return network


@torch.no_grad()
def start_from_half_size(network: AutoencoderKL, half: AutoencoderKL) -> None:
    """Give ``network`` the weights of an autoencoder of one level less, which sees pictures at half the size.

    At once, the latents of a picture are about those that ``half`` has for the picture averaged over 2x2 pixels, and
    the decoder shows about what ``half`` decodes, at twice the size.
    """
    state, old = network.state_dict(), half.state_dict()
    for name, value in old.items():
        if name.startswith("encoder.down_blocks."):
            level, rest = name.removeprefix("encoder.down_blocks.").split(".", 1)
            state[f"encoder.down_blocks.{int(level) + 1}.{rest}"].copy_(value)
        elif not name.startswith("encoder.conv_in."):
            state[name].copy_(value)
    # The new first convolution makes four shifted copies of the picture. The new downsampling reads pixels 2i to 2i + 2
    # from them and applies the old first convolution, whose taps are the averaged pixels i - 1, i, i + 1.
    first, first_down = state["encoder.conv_in.weight"], state["encoder.down_blocks.0.downsamplers.0.conv.weight"]
    state["encoder.conv_in.bias"].zero_()
    state["encoder.down_blocks.0.downsamplers.0.conv.bias"].copy_(old["encoder.conv_in.bias"])
    first[:12].zero_()
    first_down.zero_()
    average, before = torch.tensor([0.0, 0.5, 0.5]), torch.tensor([1.0, 0.0, 0.0])
    for copy in range(4):
        down, across = (before if copy // 2 else average), (before if copy % 2 else average)
        for color in range(3):
            first[3 * copy + color, color] = down[:, None] * across
    taps = old["encoder.conv_in.weight"]
    for i in range(3):
        for j in range(3):
            copy = 2 * (i == 0) + (j == 0)
            first_down[:, 3 * copy : 3 * copy + 3, 2 * (i == 2), 2 * (j == 2)] = taps[..., i, j]
    # The new upsampling repeats pixels; the residual blocks behind it are switched off.
    torch.nn.init.dirac_(state[f"decoder.up_blocks.{len(half.decoder.up_blocks) - 1}.upsamplers.0.conv.weight"])
    network.load_state_dict(state)


def to_unit_range(images: UInt8[Tensor, "batch height width 3"]) -> Float[Tensor, "batch 3 height width"]:
    """Bytes to [-1, 1], channels first."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def augment(images: Float[Tensor, "batch 3 height width"], generator: torch.Generator) -> Float[Tensor, "..."]:
    """Mirror half of the batch and permute the colour channels of a quarter."""
    mirrored = torch.rand(len(images), generator=generator, device=images.device) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    permuted = torch.rand(len(images), generator=generator, device=images.device) < 0.25
    order = torch.randperm(3, generator=generator, device=images.device)
    return torch.where(permuted[:, None, None, None], images[:, order], images)


@torch.no_grad()
def psnr(autoencoder: AutoencoderKL, images: UInt8[Tensor, "n height width 3"], batch_size: int = 50) -> float:
    """Mean peak signal-to-noise ratio in dB of reconstructions from the latents' mean."""
    ratios = []
    for batch in images.split(batch_size):
        x = to_unit_range(batch)
        y = autoencoder.decode(autoencoder.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        ratios.append(-10 * torch.log10(((x - y) / 2).square().mean(dim=(1, 2, 3))))
    return torch.cat(ratios).mean().item()


@torch.no_grad()
def latent_scale(autoencoder: AutoencoderKL, images: UInt8[Tensor, "n height width 3"]) -> float:
    """The factor that gives latents unit standard deviation (diffusers' ``scaling_factor``)."""
    latents = torch.cat([autoencoder.encode(to_unit_range(batch)).latent_dist.mode() for batch in images.split(50)])
    return 1.0 / latents.std().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("outputs/priors/world"))
    parser.add_argument("--out", type=Path, default=Path("outputs/priors/autoencoder"))
    parser.add_argument("--pictures", type=int, default=16_000)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--minutes", type=float, default=math.inf, help="train for this long, instead of --steps")
    parser.add_argument("--max-minutes", type=float, default=math.inf)
    parser.add_argument("--start-from", type=Path, help="pipeline folder of a prior of pictures of half the size")
    parser.add_argument("--decoder-only", action="store_true", help="go on from --out, latents unchanged")
    args = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with first_process_first():
        pictures = torch.from_numpy(render_dataset(args.data, args.pictures)[0]).to(device)
    torch.manual_seed(0)
    model, half, checkpoint = build_autoencoder(), None, args.out / "training.pt"
    if args.decoder_only:
        model = AutoencoderKL.from_pretrained(args.out).float()
        checkpoint = args.out / "training_decoder.pt"
        for part in (model.encoder, model.quant_conv):
            part.requires_grad_(False)
    elif args.start_from is not None:
        half = AutoencoderKL.from_pretrained(args.start_from / "vae").float().eval().requires_grad_(False)
        start_from_half_size(model, half)
        half.to(device)
    model.to(device)

    def loss_of(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        index = torch.randint(len(pictures), (args.batch_size,), generator=generator, device=pictures.device)
        x = augment(to_unit_range(pictures[index]), generator)
        posterior = model.encode(x).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        y = model.decode(mean + noise * torch.exp(0.5 * logvar)).sample.float()
        error = (y - x).square().mean()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        loss, logs = error + KL_WEIGHT * kl, {"mse": error, "kl": kl}
        if half is not None:
            earlier = half.encode(F.avg_pool2d(x, 2)).latent_dist.mode().float()
            distance = (mean - earlier).square().mean()
            loss, logs = loss + ALIGNMENT_WEIGHT * distance, {**logs, "alignment": distance}
        return loss, logs

    steps = args.steps if math.isinf(args.minutes) else 10**9
    config = FitConfig(
        steps, args.batch_size, args.lr, ema_decay=0.995, minutes=args.minutes, max_minutes=args.max_minutes
    )
    average = fit(model, loss_of, config, checkpoint, "autoencoder")
    if join_processes()[0] > 0:
        return
    fresh = torch.from_numpy(render_dataset(args.data, 1000, seed=1)[0]).to(device)
    if not args.decoder_only:  # else the latents and their scale stay
        average.register_to_config(scaling_factor=latent_scale(average, pictures[:1000]))
    print(f"PSNR on 1,000 fresh pictures: {psnr(average, fresh):.2f} dB; scale {average.config.scaling_factor:.4f}")
    average.save_pretrained(args.out)


if __name__ == "__main__":
    main()
