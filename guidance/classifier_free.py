"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598), in diffusers' convention.

Scale 1 is the plain conditional prediction and 0 the unconditional one. Other texts write
(1 + s) eps_c - s eps_u, in which every scale is smaller by one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from guidance.frozen_model import TextEmbeddings
from guidance.perp_neg import perp_neg
from guidance.prior import DiffusionPrior
from guidance.schedule import Latents, Prediction, epsilon_from_x0

TINY = 1e-8  # a spread that counts as none


def classifier_free_guidance(unconditional: Latents, conditional: Latents, scale: float) -> Latents:
    """eps_u + s (eps_c - eps_u); as it is linear, the same holds for v, flow and x_0."""
    return unconditional + scale * (conditional - unconditional)


def predict(
    prior: DiffusionPrior, x_t: Latents, t: Int[Tensor, "batch"], texts: Mapping[str, TextEmbeddings]
) -> dict[str, Prediction]:
    """The frozen network's prediction for each text, by name, in one call of the network."""
    count = len(texts)
    text = TextEmbeddings.concatenate(list(texts.values()))
    output = prior.output(prior.network, torch.cat([x_t] * count), torch.cat([t] * count), text)
    return {name: prior.as_prediction(part, x_t, t) for name, part in zip(texts, output.chunk(count), strict=True)}


def rescale(guided: Prediction, conditional: Prediction, share: float, together: int = 1) -> Latents:
    """eps of the guided prediction, after its x_0 was scaled towards the spread of the unguided one's.

    Guidance widens the range of x_0, which oversaturates colours. Lin et al. 2023 (arXiv 2305.08891, eq. 15 and 16)
    for x_0, as in MVDream (arXiv 2308.16512):

        x_0' = x_0 (share std(x_0 of eps_c) / std(x_0) + 1 - share).

    Args:
        share: 0: as it was; 1: the spread of the unguided prediction.
        together: views of an object, which stand in a row and have one spread.
    """
    if share == 0:
        return guided.epsilon
    x_0 = guided.x_0
    factor = _spread(conditional.x_0, together) / _spread(x_0, together).clamp(min=TINY)
    return epsilon_from_x0(x_0 * (share * factor + 1 - share), guided.x_t, guided.alpha, guided.sigma)


def _spread(x_0: Latents, together: int) -> Float[Tensor, "batch 1 1 1"]:
    """Standard deviation over all numbers of a group, for each of its views."""
    return x_0.reshape(len(x_0) // together, -1).std(dim=1).repeat_interleave(together).view(-1, 1, 1, 1)


def guide(
    predictions: Mapping[str, Prediction],
    scale: float,
    avoided: Mapping[str, Float[Tensor, "batch"]] | None = None,
) -> Prediction:
    """Classifier-free guidance of the predictions named "conditional" and "unconditional".

    Args:
        avoided: weights of predictions to keep away from by Perp-Neg, by name.
    """
    conditional = predictions["conditional"]
    if scale == 1 and not avoided:
        return conditional
    u, c = predictions["unconditional"].output, conditional.output
    if not avoided:
        return conditional.with_output(classifier_free_guidance(u, c, scale))
    away = [(predictions[name].output, weight) for name, weight in avoided.items()]
    return conditional.with_output(perp_neg(u, c, away, scale))
