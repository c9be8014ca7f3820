"""Distillation losses: one family, w(t) (eps_pretrain - baseline), pulled back to the scene.

The gradient of every member with respect to the latents is w(t) times the difference between the frozen
network's guided prediction and a baseline (``gradients.distillation_gradient``). Members differ in the baseline, and
in where the noise in x_t comes from; docs/losses.md compares them:

- SDS (Poole et al. 2022, DreamFusion, arXiv 2209.14988, eq. 3): the noise eps that was added;
- VSD (Wang et al. 2023, ProlificDreamer, arXiv 2305.16213, eq. 9): eps_phi, the estimate for renders;
- CSD (Yu et al. 2023, arXiv 2310.19415, eq. 7): the unconditional prediction, which leaves s (eps_c - eps_u);
- NFSD (Katzir et al. 2023, arXiv 2310.17590, eq. 6 and 7): nothing at low noise, else the prediction for a text of
  flaws;
- ISM (Liang et al. 2023, LucidDreamer, arXiv 2311.11284): the unconditional prediction one step of DDIM
  inversion earlier;
- SDI (Lukoianov et al. 2024, arXiv 2405.15891, eq. 8): as SDS, but the noise is inferred by DDIM inversion.

CLIP guidance (Jain et al. 2021, Dream Fields, arXiv 2112.01455) is no member: it reads images.

To add a loss, add a function with its declaration here; ``guidance/registry.py`` says what can be declared. This
module imports no PyTorch, so that a configuration with an unknown loss is refused at once.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float

from guidance.config import GuidanceConfig
from guidance.registry import Latents, Predictions, distillation_loss, image_loss

Features = Float[Any, "batch dim"]  # of unit length


@distillation_loss("vsd", trains_estimator=True)
def vsd(p: Predictions, config: GuidanceConfig) -> Latents:
    """eps_phi, as in eq. 9 of ProlificDreamer and step 2 of its Algorithm 1."""
    return p.estimate


@distillation_loss("sds")
def sds(p: Predictions, config: GuidanceConfig) -> Latents:
    """eps, the noise that was drawn."""
    return p.noise


@distillation_loss("csd", uses=("unconditional",))
def csd(p: Predictions, config: GuidanceConfig) -> Latents:
    """eps_u, which leaves w(t) s (eps_c - eps_u), the classifier score of CSD."""
    return p["unconditional"]


@distillation_loss("nfsd", texts={"low_quality": lambda config: config.nfsd.low_quality})
def nfsd(p: Predictions, config: GuidanceConfig) -> Latents:
    """0 at low noise, else eps_bad, which leaves w(t) (delta_D + s delta_C).

    delta_C = eps_c - eps_u, and eps_u = delta_D + noise. At low noise eps_u is nearly delta_D alone. Elsewhere the
    prediction for a text of flaws has the same noise as eps_u, and subtracting it leaves delta_D.
    """
    return p["low_quality"].masked_fill(p.t < config.nfsd.nearly_clean, 0.0)


@distillation_loss("ism", inverts=True)
def ism(p: Predictions, config: GuidanceConfig) -> Latents:
    """eps(x_s, s, none), from which the last step of the inversion reached x_t."""
    return p.previous


@distillation_loss("sdi", inverts=True)
def sdi(p: Predictions, config: GuidanceConfig) -> Latents:
    """The noise that the inversion inferred."""
    return p.noise


@image_loss("clip")
def clip(image: Features, text: Features, negative: Features) -> Float[Any, "batch"]:
    """-cos(image, text), Dream Fields' eq. 7, + cos(image, negative) where there is a negative text.

    Features have unit length; those of an absent negative text are zeros.
    """
    return -(image * (text - negative)).sum(dim=-1)
