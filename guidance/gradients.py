"""Distillation losses: one family, w(t) (eps_pretrain - baseline), pulled back to the scene.

The gradient of every member with respect to the latents is w(t) times the difference between the frozen
network's guided prediction and a baseline (``distillation_gradient``). Members differ in the baseline, and
in where the noise in x_t comes from; ``LOSSES`` lists them, docs/losses.md compares them:

- SDS (Poole et al. 2022, DreamFusion, arXiv 2209.14988, eq. 3): the noise eps that was added;
- VSD (Wang et al. 2023, ProlificDreamer, arXiv 2305.16213, eq. 9): eps_phi, the estimate for renders;
- CSD (Yu et al. 2023, arXiv 2310.19415, eq. 7): the unconditional prediction, which leaves s (eps_c - eps_u);
- NFSD (Katzir et al. 2023, arXiv 2310.17590, eq. 6 and 7): nothing at low noise, else the prediction for a text of
  flaws;
- ISM (Liang et al. 2023, LucidDreamer, arXiv 2311.11284): the unconditional prediction one step of DDIM
  inversion earlier;
- SDI (Lukoianov et al. 2024, arXiv 2405.15891, eq. 8): as SDS, but the noise is inferred by DDIM inversion.

CLIP guidance (Jain et al. 2021, Dream Fields, arXiv 2112.01455) is no member: it looks at images
(``clip_loss``). All in float32; ``weight`` is w(t) = sigma^2 / (alpha^2 + sigma^2), shaped "batch 1 1 1": the
1 - alphas_cumprod[t] of schedules that preserve variance, and what stands in its place for flows, which have no
alphas_cumprod (``NoiseSchedule.weight``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from guidance.schedule import Latents, Prediction

Levels = Float[Tensor, "batch 1 1 1"]
Scalar = Float[Tensor, ""]

ESTIMATOR_LOSSES = ("velocity", "epsilon")


@dataclass(frozen=True)
class Scores:
    """What is known of one x_t, all as noise. What no loss asked for is None."""

    guided: Latents  # eps_pretrain(x_t, t, y^c), with classifier-free guidance
    noise: Latents  # eps in x_t = alpha x_0 + sigma eps: drawn, or inferred by inversion
    nearly_clean: Bool[Tensor, "batch 1 1 1"]  # t is below NFSD's threshold
    unconditional: Latents | None = None  # eps_pretrain(x_t, t, negative prompt, or none)
    low_quality: Latents | None = None  # eps_pretrain(x_t, t, a text of flaws)
    previous: Latents | None = None  # of the last step of the inversion, eps_pretrain(x_s, s, none) with s < t
    estimate: Latents | None = None  # eps_phi(x_t, t, c, y)


def sds_baseline(scores: Scores) -> Latents:
    """eps. With the noise of an inversion in place of drawn noise it is SDI's."""
    return scores.noise


def vsd_baseline(scores: Scores) -> Latents:
    """eps_phi, as in eq. 9 of ProlificDreamer and step 2 of its Algorithm 1."""
    return scores.estimate


def csd_baseline(scores: Scores) -> Latents:
    """eps_u, which leaves w(t) s (eps_c - eps_u), the classifier score of CSD."""
    return scores.unconditional


def nfsd_baseline(scores: Scores) -> Latents:
    """0 at low noise, else eps_bad, which leaves w(t) (delta_D + s delta_C).

    delta_C = eps_c - eps_u. Of eps_u = delta_D + noise, NFSD wants the domain's part alone: at low noise that
    is nearly all of it; elsewhere the prediction for a text of flaws has the same noise, and takes it away.
    """
    return scores.low_quality.masked_fill(scores.nearly_clean, 0.0)


def ism_baseline(scores: Scores) -> Latents:
    """eps(x_s, s, none), from which the last step of the inversion reached x_t."""
    return scores.previous


@dataclass(frozen=True)
class DistillationLoss:
    """A member of the family: its baseline, and what a step has to provide for it."""

    baseline: Callable[[Scores], Latents]
    inverts: bool = False  # x_t by DDIM inversion of x_0 instead of drawn noise
    needs_unconditional: bool = False
    needs_low_quality: bool = False
    needs_estimator: bool = False


LOSSES = {
    "vsd": DistillationLoss(vsd_baseline, needs_estimator=True),
    "sds": DistillationLoss(sds_baseline),
    "csd": DistillationLoss(csd_baseline, needs_unconditional=True),
    "nfsd": DistillationLoss(nfsd_baseline, needs_low_quality=True),
    "ism": DistillationLoss(ism_baseline, inverts=True),
    "sdi": DistillationLoss(sds_baseline, inverts=True),
}
IMAGE_LOSSES = ("clip",)  # of images instead of latents: guidance/clip.py


def distillation_gradient(guided: Latents, baseline: Latents, weight: Levels) -> Latents:
    """w(t) (eps_pretrain - baseline)."""
    return weight * (guided - baseline)


def clip_loss(
    image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"], negative: Float[Tensor, "batch dim"]
) -> Float[Tensor, "batch"]:
    """-cos(image, text), Dream Fields' eq. 7, + cos(image, negative) where there is a negative text.

    Features have unit length; a negative of zeros says nothing.
    """
    return -(image * (text - negative)).sum(dim=-1)


def clip_gradient(gradient: Latents, max_rms: float | None) -> Latents:
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


def estimator_loss(prediction: Prediction, x_0: Latents, noise: Latents, kind: str = "velocity") -> Scalar:
    """Mean squared error of eps_phi (ProlificDreamer's eq. 8), weighted as an error of v or of eps.

    The paper trains eps_phi by v-prediction. A network that predicts eps can do that without a change
    of its output: from x_t = alpha x_0 + sigma eps and v = alpha eps - sigma x_0 follows
    v = (eps - sigma x_t) / alpha, and as x_t is given, an error of eps is alpha times an error of v:

        || v_phi - v ||^2 = || eps_phi - eps ||^2 / alpha^2 = || x0_phi - x_0 ||^2 / sigma^2.

    (For flow matching, eps = x_t + alpha u gives the same factor.) So "velocity" divides the squared
    error of an eps network by alpha^2 and leaves that of v and flow networks as it is. Without this
    weight, errors of x_0 at high noise, such as a wrong overall colour, hardly count: they are what
    makes colours drift once high noise levels are no longer visited.

    Raises:
        ValueError: an unknown ``kind``.
    """
    if kind not in ESTIMATOR_LOSSES:
        raise ValueError(f"estimator loss: {kind!r} is unknown; use one of {', '.join(ESTIMATOR_LOSSES)}")
    error = prediction.output - prediction.target(x_0, noise)
    if kind == "velocity" and prediction.prediction_type == "epsilon":
        error = error / prediction.alpha
    elif kind == "epsilon" and prediction.prediction_type != "epsilon":
        error = error * prediction.alpha
    return error.square().mean()


@dataclass(frozen=True)
class GradientDiagnostics:
    """Root mean squares over each sample, to see what the gradient is made of."""

    gradient: Float[Tensor, "batch"]  # w(t) (eps_pretrain - baseline), before clipping
    guidance: Float[Tensor, "batch"]  # w(t) (s - 1) (eps_c - eps_u), and Perp-Neg's part: what guidance adds
    residual: Float[Tensor, "batch"]  # w(t) (eps_c - baseline): the part that vanishes when renders look real


def diagnose(
    noise_pred: Latents, noise_pred_conditional: Latents, baseline: Latents, weight: Levels
) -> GradientDiagnostics:
    """Split the gradient into the pull of guidance and the rest."""
    return GradientDiagnostics(
        gradient=rms(weight * (noise_pred - baseline)),
        guidance=rms(weight * (noise_pred - noise_pred_conditional)),
        residual=rms(weight * (noise_pred_conditional - baseline)),
    )


def rms(x: Latents) -> Float[Tensor, "batch"]:
    """Root mean square of each sample."""
    return x.square().mean(dim=tuple(range(1, x.ndim))).sqrt()
