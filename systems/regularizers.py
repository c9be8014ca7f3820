"""Regularisers of what was rendered: pure functions to a scalar, their weights are the caller's.

Binary entropy is taken of e + (1 - 2e) p with e = 1e-5, and the constant at p = 0 is subtracted. That
keeps value and slope finite at 0 and 1 without a clamp, which would take the gradient away from exactly
the samples that are nearly decided. Everything is defined, and 0, for empty input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from models.mesh_geometry import laplacian_smoothness, normal_consistency
from renderers.output import RenderedMesh, RenderOutput

MARGIN = 1e-5  # e above

Scalar = Float[Tensor, ""]


def binary_entropy(p: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """-q log2 q - (1 - q) log2(1 - q), less its value at p = 0, with q = e + (1 - 2e) p: in [0, 1] bits."""
    q = MARGIN + (1 - 2 * MARGIN) * p.float()
    at_zero = -MARGIN * math.log2(MARGIN) - (1 - MARGIN) * math.log2(1 - MARGIN)
    entropy = torch.special.entr(q) + torch.special.entr(1 - q)  # a GPU has kernels of -q ln q and of its derivative
    return entropy / math.log(2) - at_zero


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

    The transmittance loss of Dream Fields (Jain et al. 2021, arXiv 2112.01455, eq. 8): it makes room around an
    object, and has no slope once a view's mean transmittance has reached the target.
    """
    if opacity.numel() == 0:
        return _mean(opacity)
    return -(1 - opacity.float().flatten(1).mean(dim=1)).clamp(max=target).mean()


def reconstruction(
    rgb: Float[Tensor, "batch height width 3"],
    opacity: Float[Tensor, "batch height width 1"],
    autoencoded: Float[Tensor, "batch height width 3"],
) -> Scalar:
    """Mean squared distance of what is seen of the scene to what the prior's autoencoder makes of it.

    The guidance sees a view through the encoder, and its gradient comes back through it: fine coloured noise that
    moves the latents as they should grows where no latent shows it. The decoder draws pictures without it. Pixels
    count by their opacity, for which the term has no gradient: an autoencoder's shift of a plain background would
    otherwise draw fog in front of it.
    """
    return _mean(opacity.detach().float() * (rgb.float() - autoencoded.float()).square())


@dataclass(frozen=True)
class Rendered:
    """What the terms are of."""

    views: RenderOutput  # with gradient: it has weights if it is of a volume, else a mesh
    transmittance_target: float  # of ``regularizers`` at the iteration
    autoencode: Callable[[], Float[Tensor, "batch height width 3"]]  # the views through the prior's autoencoder

    @property
    def weights(self) -> Float[Tensor, "n"]:
        """Of the samples of a volume."""
        assert self.views.weights is not None, "views of a volume, with gradient"
        return self.views.weights

    @property
    def mesh(self) -> RenderedMesh:
        """The surface that was drawn."""
        assert self.views.mesh is not None, "views of a mesh, with gradient"
        return self.views.mesh


#: A term of `configs.schema.RegularizerConfig`. A system lists those that it applies.
REGULARIZERS: dict[str, Callable[[Rendered], Scalar]] = {
    "entropy": lambda seen: weight_entropy(seen.weights),
    "sparsity": lambda seen: sparsity(seen.views.opacity),
    "opacity_binary": lambda seen: binary_opacity(seen.views.opacity),
    "transmittance": lambda seen: transmittance(seen.views.opacity, seen.transmittance_target),
    "reconstruction": lambda seen: reconstruction(seen.views.rgb, seen.views.opacity, seen.autoencode()),
    "normal_consistency": lambda seen: normal_consistency(seen.mesh.vertices, seen.mesh.faces, seen.mesh.edges),
    "laplacian": lambda seen: laplacian_smoothness(seen.mesh.vertices, seen.mesh.edges),
}


def _mean(values: Float[Tensor, "*n"]) -> Scalar:
    """The mean, or 0 (with a graph) of nothing."""
    return values.mean() if values.numel() else values.sum()
