"""Put the trained parts of the bundled prior together in diffusers' own format.

    python -m priors.assemble --autoencoder outputs/priors/autoencoder --diffusion outputs/priors/diffusion

Writes ``priors/mini``: safetensors that ``StableDiffusionPipeline.from_pretrained`` loads with no code
of ours and no arguments, the vocabulary (for warnings about unknown words) and checksums.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from files.checksums import write_checksums
from priors.world.captions import vocabulary

DEFAULT_PRIOR = Path(__file__).with_name("mini")
#: Entries of saved configurations that tell where they were made, and nothing that loading needs.
LOCAL_ENTRIES = ("_name_or_path", "is_local", "local_files_only")


def assemble(autoencoder: Path, diffusion: Path, out: Path) -> None:
    """Write the pipeline folder ``out`` from the training outputs.

    The large parts are stored in fp16, which diffusers loads as fp32 unless told otherwise. The text encoder is small
    and stored in fp32: transformers loads the type that a configuration names, so both libraries agree.
    """
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.rmtree(out / part, ignore_errors=True)  # no file of an earlier version stays
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(autoencoder).half(),
        text_encoder=CLIPTextModel.from_pretrained(diffusion / "text_encoder").float(),
        tokenizer=CLIPTokenizer.from_pretrained(diffusion / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(diffusion / "unet").half(),
        scheduler=DDIMScheduler.from_pretrained(diffusion / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out, safe_serialization=True)
    make_portable(out)
    (out / "vocabulary.txt").write_bytes(("\n".join(vocabulary()) + "\n").encode())
    write_checksums(out)


def make_portable(folder: Path) -> None:
    """Rewrite a saved pipeline so that other machines and older versions of transformers can load it.

    Its configurations lose what names a folder of this machine. The text encoder's weights get the prefix
    ``text_model.``, which transformers before version 5.6 needs and later ones accept, and the tokenizer the two
    files that versions before 5 read.
    """
    for path in folder.rglob("*.json"):
        if path.name in ("tokenizer.json", "vocab.json", "checksums.json"):
            continue
        config = json.loads(path.read_text(encoding="utf-8"))
        _write_json(path, {name: value for name, value in config.items() if name not in LOCAL_ENTRIES})

    weights = folder / "text_encoder" / "model.safetensors"
    prefix = "text_model."
    state = {name if name.startswith(prefix) else prefix + name: value for name, value in load_file(weights).items()}
    save_file(state, weights, metadata={"format": "pt"})

    model = json.loads((folder / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    _write_json(folder / "tokenizer" / "vocab.json", model["vocab"])
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "tokenizer" / "merges.txt").write_bytes(("\n".join(["#version: 0.2", *merges]) + "\n").encode())


def _write_json(path: Path, content: dict) -> None:
    path.write_bytes((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


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
