"""Score distillation: what one step asks of the prior and of the LoRA estimator.

Wang et al. 2023 (ProlificDreamer, arXiv 2305.16213), Algorithm 1: ``scene_gradient`` is its step 2 up to
the latents, ``estimator_loss`` its step 3. The other members of the family (``guidance.losses``) are the same
step with another baseline. The caller owns iterations, optimizers, autocast and the order of updates; nothing
here remembers a step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from guidance import losses
from guidance.classifier_free import GuidedPrediction, predict_guided
from guidance.config import GuidanceConfig
from guidance.estimator import LoraEstimator
from guidance.inversion import inversion_levels, invert
from guidance.losses import LOSSES, GradientDiagnostics, Scalar, Scores
from guidance.perp_neg import avoided_views
from guidance.prior import DiffusionPrior, Images, Latents
from guidance.prompts import PromptBatch, PromptEmbeddings
from guidance.schedule import Prediction, epsilon_from_x0
from renderers.cameras import Cameras

FULL_RANGE = (0.0, 1.0)


@dataclass(frozen=True)
class GuidanceOutput:
    """One step's result. Everything is detached, save ``estimator_loss``."""

    gradient: Latents  # dL/dlatents of each sample; give it to ``losses.as_loss``
    t: Int[Tensor, "batch"]  # noise levels that were drawn
    t_fraction: Float[Tensor, "batch"]  # the same, of the schedule's [0, 1]
    noisy_latents: Latents
    x0_pretrained: Latents  # the guided frozen network's guess at the clean latents
    x0_estimator: Latents | None  # the estimator's; None where the loss has none
    diagnostics: GradientDiagnostics
    estimator_loss: Scalar | None  # with graph; only with ``shared_pass``

    @property
    def figures(self) -> dict[str, Tensor]:
        """What is worth logging, by name."""
        return {
            "grad/latents": self.diagnostics.gradient.mean(),
            "grad/latents_guidance": self.diagnostics.guidance.mean(),
            "grad/latents_residual": self.diagnostics.residual.mean(),
            "schedule/t": self.t_fraction.mean(),
        }


@dataclass(frozen=True)
class Noised:
    """x_t, and the noise in it."""

    x_t: Latents
    noise: Latents  # drawn, or inferred
    previous: Latents | None = None  # the last step's prediction, where inversion made x_t


class ScoreDistillation(nn.Module):
    """A frozen prior and, for VSD, its LoRA estimator. The parameters are the estimator's."""

    def __init__(self, prior: DiffusionPrior, estimator: LoraEstimator | None, config: GuidanceConfig) -> None:
        super().__init__()
        if config.needs_estimator != (estimator is not None):
            needed = "needs" if config.needs_estimator else "uses no"
            raise ValueError(f"estimator: the loss {config.loss!r} {needed} LoraEstimator, received {estimator!r:.60}")
        self.prior = prior
        self.estimator = estimator
        self.config = config
        self.loss = LOSSES[config.loss]

    @property
    def image_size(self) -> int:
        """Pixels a side of the images that ``encode`` takes."""
        return self.prior.image_size

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.prior.latent_shape

    @property
    def in_one_batch(self) -> bool:
        """Whether both scores come from one call of the network; docs/costs.md says where that is faster."""
        if self.estimator is None or self.config.shared_pass or self.loss.needs_low_quality:
            return False
        if self.config.one_batch is None:
            return self.prior.network.dtype != torch.float32
        return self.config.one_batch

    def encode(self, images: Images) -> Latents:
        """What ``scene_gradient`` looks at."""
        return self.prior.encode_images(images).float()

    def scene_gradient(
        self,
        latents: Latents,
        prompts: PromptEmbeddings,
        cameras: Cameras,
        t_range: tuple[float, float],
        generator: torch.Generator,
    ) -> GuidanceOutput:
        """w(t) (eps_pretrain - baseline) at the latents, with t ~ U(t_range) (fractions of the schedule).

        The network runs once on all texts together and, for VSD, once more as the estimator unless both are
        ``in_one_batch``; for losses that invert, also ``inversion.steps`` times on the way to x_t. With
        ``shared_pass`` the estimator's run keeps its graph and also yields its training loss, at the scene's noise
        levels and with every camera shown, since the score needs them so.

        Raises:
            ValueError: ``t_range`` is inverted or leaves [0, 1].
        """
        x_0 = latents.detach().float()
        texts = prompts.for_cameras(cameras)
        assert texts.low_quality is not None or not self.loss.needs_low_quality, "embed the prompt with low_quality"
        t = self.prior.schedule.sample_t(len(x_0), t_range, generator, x_0.device)
        with torch.no_grad():
            noised = self._inverted(x_0, t, texts) if self.loss.inverts else self._noised(x_0, t, generator)
        frozen, estimate = self._predict(noised.x_t, t, texts, prompts, cameras)
        training_loss = None
        if self.config.shared_pass:
            training_loss = losses.estimator_loss(estimate, x_0, noised.noise, self.estimator.config.loss)
        t_fraction = t.float() / len(self.prior.schedule)
        with torch.no_grad():
            weight = self.prior.schedule.weight(t)
            scores = Scores(
                guided=frozen.guided.epsilon,
                noise=noised.noise,
                nearly_clean=(t_fraction < self.config.nfsd.nearly_clean).view(-1, 1, 1, 1),
                unconditional=_epsilon(frozen.unconditional),
                low_quality=_epsilon(frozen.further),
                previous=noised.previous,
                estimate=_epsilon(estimate),
            )
            baseline = self.loss.baseline(scores)
            gradient = losses.distillation_gradient(scores.guided, baseline, weight)
            return GuidanceOutput(
                gradient=losses.clip_gradient(gradient, self.config.max_gradient_rms),
                t=t,
                t_fraction=t_fraction,
                noisy_latents=noised.x_t,
                x0_pretrained=frozen.guided.x_0,
                x0_estimator=None if estimate is None else estimate.x_0.detach(),
                diagnostics=losses.diagnose(scores.guided, frozen.conditional.epsilon, baseline, weight),
                estimator_loss=training_loss,
            )

    def estimator_loss(
        self,
        latents: Latents,
        prompts: PromptEmbeddings,
        cameras: Cameras,
        generator: torch.Generator,
        t_range: tuple[float, float] = FULL_RANGE,
    ) -> Scalar:
        """Algorithm 1, step 3: || eps_phi - eps ||^2 in the estimator's weighting, at fresh noise levels.

        The latents are detached here. Cameras are hidden from a share of the samples (``camera_dropout``),
        so that the estimator also learns what all views have in common.
        """
        assert self.estimator is not None, f"{self.config.loss} has no estimator to train"
        x_0 = latents.detach().float()
        t = self.prior.schedule.sample_t(len(x_0), t_range, generator, x_0.device)
        noise = draw_noise(x_0, generator)
        keep_camera = self.estimator.draw_keep_camera(len(x_0), generator)
        x_t = self.prior.schedule.add_noise(x_0, noise, t)
        plain = prompts.for_cameras(cameras).plain
        prediction = self.estimator.predict(self.prior, x_t, t, plain, cameras.c2w, keep_camera)
        return losses.estimator_loss(prediction, x_0, noise, self.estimator.config.loss)

    def _predict(
        self,
        x_t: Latents,
        t: Int[Tensor, "batch"],
        texts: PromptBatch,
        prompts: PromptEmbeddings,
        cameras: Cameras,
    ) -> tuple[GuidedPrediction, Prediction | None]:
        """What the frozen network says, and the estimator where there is one: with its graph for ``shared_pass``."""
        ask = partial(
            predict_guided,
            self.prior,
            x_t,
            t,
            texts.conditional,
            texts.unconditional,
            self.config.guidance_scale,
            always_unconditional=self.loss.needs_unconditional,
            avoided=avoided_views(prompts, cameras, self.config.perp_neg),
        )
        if self.in_one_batch:
            with torch.no_grad(), self.estimator.on_last_rows(cameras.c2w) as network:
                both = ask(further=texts.plain, network=network)
            return replace(both, further=None), both.further
        with torch.no_grad():
            frozen = ask(further=texts.low_quality if self.loss.needs_low_quality else None)
        if self.estimator is None:
            return frozen, None
        with torch.set_grad_enabled(self.config.shared_pass):
            return frozen, self.estimator.predict(self.prior, x_t, t, texts.plain, cameras.c2w)

    def _noised(self, x_0: Latents, t: Int[Tensor, "batch"], generator: torch.Generator) -> Noised:
        noise = draw_noise(x_0, generator)
        return Noised(self.prior.schedule.add_noise(x_0, noise, t), noise)

    def _inverted(self, x_0: Latents, t: Int[Tensor, "batch"], texts: PromptBatch) -> Noised:
        """x_t where DDIM inversion leads, and the noise that makes it of x_0."""
        config, schedule = self.config.inversion, self.prior.schedule

        def predict(x: Latents, level: Int[Tensor, "batch"]) -> Prediction:
            if config.guidance_scale == 0:
                return self.prior.predict(x, level, texts.unconditional)
            pair = (texts.conditional, texts.unconditional)
            return predict_guided(self.prior, x, level, *pair, config.guidance_scale).guided

        found = invert(predict, x_0, inversion_levels(t, config, schedule), schedule)
        noise = epsilon_from_x0(x_0, found.x_t, schedule.alpha(t), schedule.sigma(t))
        return Noised(found.x_t, noise, found.epsilon)


def _epsilon(prediction: Prediction | None) -> Latents | None:
    return None if prediction is None else prediction.epsilon.detach()


def draw_noise(like: Latents, generator: torch.Generator) -> Latents:
    """Standard normal noise of the shape and on the device of ``like``, drawn on the generator's device."""
    return torch.randn(like.shape, generator=generator, device=generator.device).to(like.device)
