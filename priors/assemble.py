"""Put the trained parts of the bundled prior together in diffusers' own format.

    python -m priors.assemble --autoencoder outputs/priors/autoencoder --diffusion outputs/priors/diffusion

Writes ``priors/mini``: fp16 safetensors that ``StableDiffusionPipeline.from_pretrained`` loads with
no code of ours, the vocabulary (for warnings about unknown words) and checksums.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from files.checksums import write_checksums
from priors.world.captions import vocabulary

DEFAULT_PRIOR = Path(__file__).with_name("mini")


def assemble(autoencoder: Path, diffusion: Path, out: Path) -> None:
    """Write the pipeline folder ``out`` from the training outputs."""
    tokenizer = CLIPTokenizer.from_pretrained(diffusion / "tokenizer")
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(autoencoder),
        text_encoder=CLIPTextModel.from_pretrained(diffusion / "text_encoder"),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel.from_pretrained(diffusion / "unet"),
        scheduler=DDIMScheduler.from_pretrained(diffusion / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)
    (out / "vocabulary.txt").write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    write_checksums(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--autoencoder", type=Path, default=Path("outputs/priors/autoencoder"))
    parser.add_argument("--diffusion", type=Path, default=Path("outputs/priors/diffusion"))
    parser.add_argument("--out", type=Path, default=DEFAULT_PRIOR)
    args = parser.parse_args()
    assemble(args.autoencoder, args.diffusion, args.out)
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{args.out}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
