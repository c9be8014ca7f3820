"""MVDream's own weights (Shi et al. 2023, arXiv 2308.16512): as folders of its usual port, and as the authors' file.

Both name the UNet's weights as the authors' code does (LDM's names). Diffusers knows these names; only the camera
embedding has a name of its own, and takes the place of diffusers' class embedding. A folder of the port is read as it
is. The authors' file is converted once (``guidance/convert_mvdream.py``), since its other parts come from a base.
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from guidance.families.components import read_object
from guidance.families.multiview import CAMERA_WIDTH, MultiViewPrior
from guidance.families.registry import family
from guidance.model_files import ModelFiles
from priors.multiview_network import VIEWS

PREFIX = "model.diffusion_model."  # of the UNet in the authors' file
CAMERA = "camera_embed."
LATENT_SIZE = 32  # MVDream was trained at 256 pixels
REMEDY = "fetch MVDream's weights again"
# What a port's config.json leaves to its class: the numbers of SD 2.1.
_DEFAULTS: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "channel_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attention_resolutions": [4, 2, 1],
    "num_head_channels": 64,
    "context_dim": 1024,
    "camera_dim": CAMERA_WIDTH,
    "transformer_depth": 1,
    "image_size": LATENT_SIZE,
}
_WEIGHT_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_IMAGE_WORDS = ("image_embed.", "_ip.")  # in the names of the weights that ImageDream adds


@family("MVDreamPipeline", preset="mvdream")
class MVDreamPrior(MultiViewPrior):
    """A folder of the usual port; the UNet is converted while it is read."""

    @classmethod
    def views_of(cls, files: ModelFiles, index: dict[str, Any]) -> int:
        _refuse_image_model(files, port_settings(fetched(files, "unet/config.json")))
        return VIEWS

    @classmethod
    def load_unet(
        cls, place: ModelFiles, files: ModelFiles, index: dict[str, Any], device: torch.device, dtype: torch.dtype
    ) -> UNet2DConditionModel:
        config = port_config(fetched(files, "unet/config.json"))
        if device.type == "meta":
            return outline(config, dtype)
        folder = fetched(files, "unet/*")
        return convert(read_weights(port_weights(folder)), config, folder / "unet", dtype)


def fetched(files: ModelFiles, wanted: str) -> Path:
    """The model's folder; of a hub id the local copy, in which at least ``wanted`` are there.

    Raises:
        FileNotFoundError: the hub cannot be reached.
    """
    if files.folder is not None:
        return files.folder
    try:
        return Path(snapshot_download(str(files.place), revision=files.revision, allow_patterns=[wanted]))
    except (OSError, HfHubHTTPError) as error:
        reason = str(error).splitlines()[0].rstrip(". ")
        raise FileNotFoundError(f"prior: {wanted} of {str(files)!r} cannot be fetched: {reason}; {REMEDY}") from error


def port_settings(folder: Path) -> dict[str, Any]:
    """The arguments of the port's UNet.

    Raises:
        FileNotFoundError, ValueError: its config.json is missing, or is no JSON object.
    """
    path = folder / "unet" / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"prior: {path} is missing, which says how large the network is; {REMEDY}")
    return read_object(path, REMEDY)


def port_config(folder: Path) -> dict[str, Any]:
    """Diffusers' configuration of the port's UNet; raises as ``port_settings``."""
    s = _DEFAULTS | port_settings(folder)
    channels = [s["model_channels"] * factor for factor in s["channel_mult"]]
    attends = [2**level in s["attention_resolutions"] for level in range(len(channels))]
    return {
        "sample_size": s["image_size"],
        "in_channels": s["in_channels"],
        "out_channels": s["out_channels"],
        "block_out_channels": channels,
        "layers_per_block": s["num_res_blocks"],
        "down_block_types": ["CrossAttnDownBlock2D" if each else "DownBlock2D" for each in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if each else "UpBlock2D" for each in reversed(attends)],
        "attention_head_dim": [width // s["num_head_channels"] for width in channels],  # diffusers' name for the count
        "transformer_layers_per_block": s["transformer_depth"],
        "cross_attention_dim": s["context_dim"],
        "use_linear_projection": True,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": s["camera_dim"],
    }


def port_weights(folder: Path) -> Path:
    """The file with the weights of the port's UNet.

    Raises:
        FileNotFoundError: there is none.
    """
    found = [folder / "unet" / name for name in _WEIGHT_FILES if (folder / "unet" / name).is_file()]
    if not found:
        raise FileNotFoundError(f"prior: {folder / 'unet'} has none of {', '.join(_WEIGHT_FILES)}; {REMEDY}")
    return found[0]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; their values stay on the disk until they are used.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is truncated, or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"prior: {path} is no file; {REMEDY}")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        held = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (SafetensorError, RuntimeError, UnpicklingError, EOFError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
        raise ValueError(f"prior: {path} is truncated or no file of weights ({reason}); {REMEDY}") from error
    held = held.get("state_dict", held) if isinstance(held, dict) else held
    if not isinstance(held, dict) or not all(isinstance(value, Tensor) for value in held.values()):
        raise ValueError(f"prior: {path} holds no table of weights; {REMEDY}")
    return held


def outline(config: dict[str, Any], dtype: torch.dtype) -> UNet2DConditionModel:
    """The network as shapes alone, on the meta device."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    return nn.Module.to(unet, dtype)  # diffusers' own `to` has remarks


def convert(
    weights: dict[str, Tensor], config: dict[str, Any], where: Path, dtype: torch.dtype
) -> UNet2DConditionModel:
    """A UNet of diffusers with weights under the authors' names, with or without their file's prefix.

    Names and shapes are compared before any value is read.

    Args:
        where: the weights come from, for messages.

    Raises:
        ValueError: the weights are of another network.
    """
    own = {name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)} or weights
    if any(word in name for name in own for word in _IMAGE_WORDS):
        raise _image_model(where)
    cameras = [f"{CAMERA}{part}" for part in ("0.weight", "0.bias", "2.weight", "2.bias")]
    missing = [name for name in cameras if name not in own]
    if missing:
        raise ValueError(f"prior: {where} has no camera embedding ({', '.join(missing)}): it is no MVDream; {REMEDY}")
    # The names under which LDM has what diffusers calls a class embedding.
    renamed = {
        PREFIX + (f"label_emb.0.{name.removeprefix(CAMERA)}" if name.startswith(CAMERA) else name): value
        for name, value in own.items()
    }
    unet = outline(config, dtype)
    expected = {name: value.shape for name, value in unet.state_dict().items()}
    try:
        found = convert_ldm_unet_checkpoint(renamed, {**unet.config})
    except KeyError as error:
        raise ValueError(f"prior: {where} lacks the weight {error}; {REMEDY}") from error
    lacking = sorted(expected.keys() - found.keys())
    others = sorted(name for name, value in found.items() if expected.get(name) != value.shape)
    if lacking or others or len(found) != len(own):
        reasons = [
            f"{len(names)} {kind}, such as {names[0]}"
            for kind, names in (("missing", lacking), ("unknown or of another shape", others))
            if names
        ] or [f"it has {len(own)} weights, {len(found)} of which are known"]
        raise ValueError(f"prior: {where} is not the UNet that its configuration says: {'; '.join(reasons)}; {REMEDY}")
    unet.load_state_dict({name: value.to(dtype) for name, value in found.items()}, assign=True)
    return unet


def _refuse_image_model(files: ModelFiles | Path, settings: dict[str, Any]) -> None:
    if settings.get("ip_dim"):
        raise _image_model(files)


def _image_model(where: ModelFiles | Path) -> ValueError:
    return ValueError(
        f"prior: {where} is an ImageDream, which needs a picture beside the text; use MVDream, which reads text alone"
    )
