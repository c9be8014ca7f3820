"""A UNet that sees several views of one object at once.

Shi et al. 2023 (MVDream, arXiv 2308.16512, section 3): self-attention runs over the tokens of all views together, and
the camera is added to the time embedding. Both are diffusers' own: a class embedding of kind "projection", and an
attention processor that regroups the views.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from files.checksums import verify_checksums

VIEWS = 4  # of an object
DEFAULT_MULTIVIEW = Path(__file__).with_name("mini-mv")
WEIGHTS = "unet_difference.safetensors"


class JointAttention:
    """Self-attention over the tokens of all views of a group; cross-attention stays each view's own."""

    def __init__(self, views: int, plain: AttnProcessor | AttnProcessor2_0) -> None:
        self.views, self.plain = views, plain

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "batch tokens channels"],
        encoder_hidden_states: Float[Tensor, "batch text width"] | None = None,
        *args,
        **kwargs,
    ) -> Float[Tensor, "batch tokens channels"]:
        if encoder_hidden_states is not None:
            return self.plain(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
        if len(hidden_states) % self.views:
            raise ValueError(f"{len(hidden_states)} views are no whole number of groups of {self.views}")
        joined = hidden_states.unflatten(0, (-1, self.views)).flatten(1, 2)
        return self.plain(attn, joined, None, *args, **kwargs).view_as(hidden_states)


def multiview_unet(single: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy with a camera embedding, which changes nothing yet."""
    config = {**single.config, "class_embed_type": "projection", "projection_class_embeddings_input_dim": 16}
    unet = torch.nn.Module.to(UNet2DConditionModel.from_config(config), single.dtype)  # diffusers' own `to` has remarks
    assert {name for name in unet.state_dict() if not name.startswith("class_embedding.")} == single.state_dict().keys()
    if single.device.type == "meta":
        return unet
    unet.load_state_dict(single.state_dict(), strict=False)
    torch.nn.init.zeros_(unet.class_embedding.linear_2.weight)
    torch.nn.init.zeros_(unet.class_embedding.linear_2.bias)
    return unet


def load_multiview_unet(prior: Path, difference: Path) -> UNet2DConditionModel:
    """The UNet of the pipeline folder ``prior`` with the weights of ``difference`` in place of its own."""
    unet = multiview_unet(UNet2DConditionModel.from_pretrained(prior / "unet").float())
    apply_difference(unet, difference)
    return unet


def apply_difference(unet: UNet2DConditionModel, folder: Path) -> None:
    """Replace those weights of ``unet`` that the folder holds.

    Raises:
        FileNotFoundError, ValueError: the weights are missing, altered, or of another network; the message names them.
    """
    verify_checksums(folder)
    own = dict(unet.named_parameters())
    for name, value in load_file(folder / WEIGHTS).items():
        if name not in own or own[name].shape != value.shape:
            raise ValueError(
                f"{folder / WEIGHTS}: {name} with shape {tuple(value.shape)} is no weight of its base's UNet"
            )
        with torch.no_grad():
            own[name].copy_(value)


def join_views(unet: UNet2DConditionModel, views: int, plain: AttnProcessor | AttnProcessor2_0) -> None:
    """Let the views of a group see each other; the batch has the views of an object in a row."""
    joint = JointAttention(views, plain)
    unet.set_attn_processor({name: joint if ".attn1." in name else plain for name in unet.attn_processors})


def camera_condition(c2w: Float[Tensor, "batch 4 4"]) -> Float[Tensor, "batch 16"]:
    """What the camera embedding reads: the matrix with z up and its translation of length 1."""
    # From a world with y up, the camera's axes staying, to Blender's with z up, which MVDream was trained on. A matrix
    # for it would have to be copied to the device.
    x, y, z, last = c2w.unbind(dim=1)
    matrix = torch.stack([x, -z, y, last], dim=1)
    position = matrix[:, :3, 3:] / matrix[:, :3, 3:].norm(dim=1, keepdim=True)
    return torch.cat([torch.cat([matrix[:, :3, :3], position], dim=2), matrix[:, 3:]], dim=1).flatten(1)
