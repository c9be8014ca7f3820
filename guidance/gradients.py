"""The arithmetic of the losses: gradients at the latents, the estimator's loss, and what they consist of.

All in float32. ``weight`` is w(t), shaped "batch 1 1 1": by default sigma^2 / (alpha^2 + sigma^2), the
1 - alphas_cumprod[t] of schedules that preserve variance, and what stands in its place for flows, which have no
alphas_cumprod (``NoiseSchedule.weight``).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from guidance.config import EstimatorLoss
from guidance.schedule import Latents, Levels, Prediction

Scalar = Float[Tensor, ""]


def distillation_gradient(guided: Latents, baseline: Latents, weight: Levels) -> Latents:
    """w(t) (eps_pretrain - baseline)."""
    return weight * (guided - baseline)


def limit_rms(gradient: Latents, max_rms: float | None) -> Latents:
    """Shrink each sample whose root mean square exceeds ``max_rms``; directions stay. None: unchanged."""
    if max_rms is None:
        return gradient
    return gradient * (max_rms / rms(gradient).clamp(min=max_rms)).view(-1, 1, 1, 1)


def as_loss(latents: Latents, gradient: Latents) -> Scalar:
    """A scalar whose derivative by ``latents`` is ``gradient`` / batch: the batch mean of per-sample losses.

    Its value is half the mean squared norm of the gradient, a quantity worth plotting. Value and
    derivative are put together separately, because a squared distance to ``latents - gradient``
    would round the gradient to the latents' precision.
    """
    batch = latents.shape[0]
    mean_gradient = gradient.detach() / batch
    pull = (latents.float() * mean_gradient).sum()
    return gradient.detach().square().sum() / (2 * batch) + (pull - pull.detach())


def estimator_loss(prediction: Prediction, x_0: Latents, noise: Latents, kind: EstimatorLoss = "velocity") -> Scalar:
    """Mean squared error of eps_phi (ProlificDreamer's eq. 8), weighted as an error of v or of eps.

    The paper trains eps_phi by v-prediction. A network that predicts eps can do that without a change
    of its output: from x_t = alpha x_0 + sigma eps and v = alpha eps - sigma x_0 follows
    v = (eps - sigma x_t) / alpha, and as x_t is given, an error of eps is alpha times an error of v:

        || v_phi - v ||^2 = || eps_phi - eps ||^2 / alpha^2 = || x0_phi - x_0 ||^2 / sigma^2.

    (For flow matching, eps = x_t + alpha u gives the same factor.) So "velocity" divides the squared
    error of an eps network by alpha^2 and leaves that of v and flow networks as it is. Without this
    weight, errors of x_0 at high noise, such as a wrong overall colour, hardly count: they are what
    makes colours drift once high noise levels are no longer visited.
    """
    error = prediction.output - prediction.target(x_0, noise)
    if kind == "velocity" and prediction.prediction_type == "epsilon":
        error = error / prediction.alpha
    elif kind == "epsilon" and prediction.prediction_type != "epsilon":
        error = error * prediction.alpha
    return error.square().mean()


def error_ratio(estimate: Latents, frozen: Latents, noise: Latents) -> Scalar:
    """|| eps_phi - eps ||^2 / || eps_pretrain - eps ||^2, the geometric mean over the batch; to log.

    1: the estimator knows no more of the scene than the frozen network, and VSD does no more than CSD. Below 1: it
    has learnt the scene. A ratio for each sample, because errors differ by a factor of ten from level to level.
    """
    own, others = (rms(prediction - noise) for prediction in (estimate, frozen))
    return (2 * (own / others).log()).mean().exp()


def figures(guided: Latents, conditional: Latents, baseline: Latents, weight: Levels) -> dict[str, Scalar]:
    """What the gradient consists of, to log: means over the batch of root mean squares over each sample.

    ``grad/latents``: w(t) (eps_pretrain - baseline), before ``limit_rms``; ``grad/latents_guidance``: what guidance
    adds, w(t) (s - 1) (eps_c - eps_u) and Perp-Neg's part; ``grad/latents_residual``: w(t) (eps_c - baseline), the part
    that vanishes when renders look real.
    """
    names = ("grad/latents", "grad/latents_guidance", "grad/latents_residual")
    parts = torch.stack([guided - baseline, guided - conditional, conditional - baseline])
    means = rms((weight * parts).flatten(0, 1)).view(len(names), -1).mean(dim=1)
    return dict(zip(names, means, strict=True))


def rms(x: Latents) -> Float[Tensor, "batch"]:
    """Root mean square of each sample."""
    return x.square().mean(dim=tuple(range(1, x.ndim))).sqrt()
