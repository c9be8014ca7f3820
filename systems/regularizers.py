"""Regularisers of what was rendered: pure functions to a scalar, their weights are the caller's.

Binary entropy is taken of e + (1 - 2e) p with e = 1e-5, and the constant at p = 0 is subtracted. That
keeps value and slope finite at 0 and 1 without a clamp, which would take the gradient away from exactly
the samples that are nearly decided. Everything is defined, and 0, for empty input.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from models.mesh_geometry import laplacian_smoothness, normal_consistency
from renderers.output import RenderOutput

MARGIN = 1e-5  # e above

Scalar = Float[Tensor, ""]


def binary_entropy(p: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """-q log2 q - (1 - q) log2(1 - q), less its value at p = 0, with q = e + (1 - 2e) p: in [0, 1] bits."""
    q = MARGIN + (1 - 2 * MARGIN) * p.float()
    at_zero = -MARGIN * math.log2(MARGIN) - (1 - MARGIN) * math.log2(1 - MARGIN)
    return -q * torch.log2(q) - (1 - q) * torch.log2(1 - q) - at_zero


def weight_entropy(weights: Float[Tensor, "n"]) -> Scalar:
    """Mean binary entropy of the samples' weights: low where each sample holds all of its ray's light or none."""
    return _mean(binary_entropy(weights))


def sparsity(opacity: Float[Tensor, "*n"]) -> Scalar:
    """Mean of sqrt(o^2 + 0.01) - 0.1 over the pixels: o itself, smoothed at 0, so that matter costs something."""
    return _mean((opacity.float().square() + 0.01).sqrt() - 0.1)


def binary_opacity(opacity: Float[Tensor, "*n"]) -> Scalar:
    """Mean binary entropy of the pixels' opacity: low where a pixel is all object or all background."""
    return _mean(binary_entropy(opacity))


def transmittance(opacity: Float[Tensor, "batch *pixels"], target: float) -> Scalar:
    """-min(target, share of a view's light that passes), the mean over views.

    The transmittance loss of Dream Fields (Jain et al. 2021, arXiv 2112.01455): it makes room around an object,
    and has no slope once a view's mean transmittance has reached the target.
    """
    if opacity.numel() == 0:
        return _mean(opacity)
    return -(1 - opacity.float().flatten(1).mean(dim=1)).clamp(max=target).mean()


#: A term of `configs.schema.RegularizerConfig`, of views rendered with gradient; the second argument is
#: ``regularizers.transmittance_target`` at the iteration. A system lists those that it applies.
REGULARIZERS: dict[str, Callable[[RenderOutput, float], Scalar]] = {
    "entropy": lambda views, _: weight_entropy(views.weights),
    "sparsity": lambda views, _: sparsity(views.opacity),
    "opacity_binary": lambda views, _: binary_opacity(views.opacity),
    "transmittance": lambda views, target: transmittance(views.opacity, target),
    "normal_consistency": lambda views, _: normal_consistency(views.mesh.vertices, views.mesh.faces, views.mesh.edges),
    "laplacian": lambda views, _: laplacian_smoothness(views.mesh.vertices, views.mesh.edges),
}


def _mean(values: Float[Tensor, "*n"]) -> Scalar:
    """The mean, or 0 (with a graph) of nothing."""
    return values.sum() / max(values.numel(), 1)
