"""Perp-Neg: keep away from other views, without weakening what they share with the one that is wanted.

Armandpour et al. 2023 (arXiv 2304.04968, Algorithm 1). With delta = eps_c - eps_u of the wanted text and
delta_i = eps_i - eps_u of a text to keep away from, only the part of delta_i that is perpendicular to delta counts:

    eps_u + s (delta - sum_i w_i delta_i_perp),   delta_i_perp = delta_i - (<delta_i, delta> / ||delta||^2) delta.

All is linear in differences at one x_t, so it means the same in eps, v and flow.

The texts are the other views' prompts, such as "a red mug, front view" for a camera at the back. The paper blends
the prompts of neighbouring views and lets w_i decay with the blend; here each camera has one view word, and w_i
grows with the angle between the camera and view i: in proportion up to 90 degrees, then constant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from guidance.config import PerpNegConfig
from guidance.frozen_model import TextEmbeddings
from guidance.prompts import PromptEmbeddings
from guidance.schedule import Latents
from renderers.cameras import Cameras, view_index
from renderers.config import VIEW_WORDS, ViewThresholds


@dataclass(frozen=True)
class Avoided:
    """A text to keep away from, a row for each sample, and how strongly."""

    text: TextEmbeddings
    weight: Float[Tensor, "batch"]


def avoided_views(prompts: PromptEmbeddings, cameras: Cameras, config: PerpNegConfig) -> dict[str, Avoided]:
    """The other views' prompts for each camera, by name; {} where the configuration avoids nothing."""
    if not config.words:
        return {}
    weights = view_weights(cameras, config, prompts.view_thresholds)
    rows = {word: VIEW_WORDS.index(word) for word in config.words}
    return {
        f"avoid {word} view": Avoided(prompts.for_all(prompts.views[row : row + 1], cameras), weights[word])
        for word, row in rows.items()
    }


def view_weights(
    cameras: Cameras, config: PerpNegConfig, thresholds: ViewThresholds
) -> dict[str, Float[Tensor, "batch"]]:
    """w_i of each of the configuration's words; 0 for a camera's own word."""
    own = view_index(cameras.azimuth_deg, cameras.elevation_deg, thresholds)
    x, y, z = torch.nn.functional.normalize(cameras.c2w[:, :3, 3].float(), dim=-1).unbind(-1)
    cosines = {"front": z, "side": x.abs(), "back": -z, "overhead": y, "bottom": -y}
    weights = {}
    for word in config.words:
        right_angles = torch.acos(cosines[word].clamp(-1, 1)) / (math.pi / 2)
        weights[word] = config.weights[word] * right_angles.clamp(max=1) * (own != VIEW_WORDS.index(word))
    return weights


def perpendicular(delta: Latents, main: Latents) -> Latents:
    """The part of ``delta`` that is perpendicular to ``main``, sample by sample; all of it where ``main`` is 0."""
    dims = tuple(range(1, main.ndim))
    norm = main.square().sum(dim=dims, keepdim=True)
    share = (delta * main).sum(dim=dims, keepdim=True) / norm.clamp(min=torch.finfo(norm.dtype).tiny)
    return delta - share * main


def perp_neg(
    unconditional: Latents,
    conditional: Latents,
    avoided: Sequence[tuple[Latents, Float[Tensor, "batch"]]],
    scale: float,
) -> Latents:
    """Classifier-free guidance of the given scale, away from the avoided predictions, each with its weights."""
    main = conditional - unconditional
    direction = main
    for prediction, weight in avoided:
        direction = direction - weight.to(main).view(-1, 1, 1, 1) * perpendicular(prediction - unconditional, main)
    return unconditional + scale * direction
