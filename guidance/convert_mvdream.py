"""Make a prior's folder of MVDream's weights: the authors' file, or a folder of the usual port.

    python -m guidance.convert_mvdream sd-v2.1-base-4view.pt outputs/priors/mvdream

Only the UNet is MVDream's; autoencoder, text encoder, tokenizer and scheduler are those of ``--base``, the model that
it was trained from. The names and shapes of all weights are compared before anything large is fetched or written.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from huggingface_hub import snapshot_download

from guidance.families.components import read_object, require_components
from guidance.families.multiview import CAMERA_WIDTH
from guidance.families.mvdream import LATENT_SIZE, MVDreamPrior, convert, port_weights, read_weights
from guidance.families.stable_diffusion import COMPONENTS
from guidance.loading import INDEX_FILE, WORKING_ID, find_index
from guidance.model_files import ModelFiles
from priors.multiview_network import VIEWS


def convert_mvdream(source: Path, out: Path, base: str = WORKING_ID, dtype: torch.dtype = torch.float16) -> None:
    """Write the folder ``out``.

    Args:
        base: Stable Diffusion 2.1 base, as a folder or a hub id.
        dtype: of the UNet that is written.

    Raises:
        FileExistsError: ``out`` is there already.
        FileNotFoundError, ValueError: source or base is missing, truncated or another model.
    """
    if out.exists():
        raise FileExistsError(f"OUT: {out} is there already; give another folder, or remove it")
    path = source
    if source.is_dir():
        pipeline = read_object(find_index(source)).get("_class_name")
        if pipeline != "MVDreamPipeline":
            raise ValueError(f"SOURCE: {source} is a {pipeline}, not a port of MVDream (MVDreamPipeline); give another")
        MVDreamPrior.views_of(ModelFiles(source), {})
        path = port_weights(source)
    weights = read_weights(path)
    index = read_object(find_index(base))
    if index.get("_class_name") != "StableDiffusionPipeline":
        raise ValueError(
            f"--base: {base!r} is a {index.get('_class_name')}; give the Stable Diffusion 2.1 base that MVDream was "
            f"trained from, such as {WORKING_ID!r}"
        )
    folder = Path(base).expanduser()
    is_local = folder.is_dir()
    if is_local:
        require_components(ModelFiles(folder), index, COMPONENTS)
    else:
        folder = Path(snapshot_download(base, allow_patterns=["unet/config.json"]))
    config = dict(UNet2DConditionModel.load_config(folder, subfolder="unet"))
    config |= {
        "sample_size": LATENT_SIZE,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": CAMERA_WIDTH,
    }
    unet = convert(weights, config, path, dtype)
    if not is_local:
        weights_of = [
            f"{name}/*{end}" for name in ("vae", "text_encoder") for end in ("config.json", "model.safetensors")
        ]
        folder = Path(snapshot_download(base, allow_patterns=[INDEX_FILE, "scheduler/*", "tokenizer/*", *weights_of]))
        require_components(ModelFiles(folder), index, COMPONENTS)
    unet.save_pretrained(out / "unet")
    for name in COMPONENTS:
        if name != "unet":
            shutil.copytree(folder / name, out / name)
    index |= {"_class_name": "MultiViewStableDiffusionPipeline", "views": VIEWS}
    # Last: a folder that a stop left half-written is then no model.
    (out / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m guidance.convert_mvdream", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="MVDream's file (sd-v2.1-base-4view.pt), or a folder of the port")
    parser.add_argument("out", type=Path, help="the folder to write; give it as prior=FOLDER")
    parser.add_argument("--base", default=WORKING_ID, help="Stable Diffusion 2.1 base: folder or hub id")
    parser.add_argument("--precision", choices=("fp16", "fp32"), default="fp16", help="of the UNet's weights")
    args = parser.parse_args(arguments)
    try:
        dtype = {"fp16": torch.float16, "fp32": torch.float32}[args.precision]
        convert_mvdream(args.source, args.out, args.base, dtype)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written to {args.out}; use it with prior={args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
