"""Score distillation: what one step asks of the prior and of the LoRA estimator.

Wang et al. 2023 (ProlificDreamer, arXiv 2305.16213), Algorithm 1: ``gradient`` is its step 2 up to the latents,
``estimator_loss`` its step 3. The other losses (``guidance/losses.py``) are the same step with another baseline. The
caller owns iterations, optimizers, autocast and the order of updates; nothing here remembers a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from guidance import gradients
from guidance.classifier_free import guide, predict, rescale
from guidance.config import GuidanceConfig
from guidance.estimator import LoraEstimator
from guidance.frozen_model import Images, TextEmbeddings
from guidance.gradients import Scalar
from guidance.interface import Guidance, GuidanceOutput
from guidance.inversion import inversion_levels, invert
from guidance.perp_neg import Avoided, avoided_views
from guidance.prior import DiffusionPrior
from guidance.prompts import PromptBatch, PromptEmbeddings
from guidance.registry import Predictions
from guidance.sampling import ddim
from guidance.schedule import Latents, Levels, Prediction, epsilon_from_x0
from models.transfer import to_device
from renderers.cameras import Cameras

FULL_RANGE = (0.0, 1.0)


@dataclass(frozen=True)
class Noised:
    """x_t, and the noise in it."""

    x_t: Latents
    noise: Latents  # drawn, or inferred
    previous: Latents | None = None  # the last step's prediction, where inversion made x_t


class ScoreDistillation(Guidance):
    """A diffusion prior and, where the loss trains one, its LoRA estimator."""

    model: DiffusionPrior

    def __init__(self, prior: DiffusionPrior, estimator: LoraEstimator | None, config: GuidanceConfig) -> None:
        super().__init__()
        if config.trains_estimator != (estimator is not None):
            needed = "needs" if config.trains_estimator else "uses no"
            raise ValueError(f"estimator: the loss {config.loss!r} {needed} LoraEstimator, received {estimator!r:.60}")
        self.model = prior
        self.estimator = estimator
        self.config = config
        self.loss = config.declaration
        self.latent_shape = prior.latent_shape
        self._levels_with_signal = prior.schedule.levels_with_signal

    def encode(self, images: Images) -> Latents:
        return self.model.encode_images(images).float()

    def decode(self, latents: Latents) -> Images:
        """One at a time, because pictures take the most memory."""
        return torch.cat([self.model.decode_latents(each) for each in latents.split(1)])

    def gradient(
        self,
        latents: Latents,
        prompts: PromptEmbeddings,
        cameras: Cameras,
        t_range: tuple[float, float],
        generator: torch.Generator,
    ) -> GuidanceOutput:
        """w(t) (eps_pretrain - baseline) at the latents, with t ~ U(t_range).

        The network runs once on all texts together and, for VSD, once more as the estimator; for losses that invert,
        also ``inversion.steps`` times on the way to x_t. With ``shared_pass`` the estimator's run keeps its graph and
        also yields its training loss, at the scene's noise levels and with every camera shown, since the score needs
        them so.
        """
        x_0, schedule = latents.detach().float(), self.model.schedule
        texts = prompts.for_cameras(cameras)
        t = self._draw_levels(len(x_0), t_range, generator)
        with torch.no_grad():
            noised = self._inverted(x_0, t, texts) if self.loss.inverts else self._noised(x_0, t, generator)
            avoided = avoided_views(prompts, cameras, self.config.perp_neg)
            frozen = predict(self.model, noised.x_t, t, self._asked(texts, avoided))
            weights = {name: view.weight for name, view in avoided.items()}
            guided = rescale(
                guide(frozen, self.config.guidance_scale, weights),
                frozen["conditional"],
                self.config.rescale,
                self.model.views_together,
            )
        estimate = self._estimate(noised.x_t, t, texts, cameras)
        training_loss = None
        if self.config.shared_pass:
            training_loss = gradients.estimator_loss(estimate, x_0, noised.noise, self.estimator.config.loss)
        with torch.no_grad():
            t_fraction, weight = t.float() / len(schedule), self._weight(t, t_range)
            known = Predictions(
                loss=self.loss,
                guided=guided,
                noise=noised.noise,
                t=t_fraction.view(-1, 1, 1, 1),
                by_text={name: frozen[name].epsilon for name in ("conditional", *self.loss.uses, *self.loss.texts)},
                of_estimator=None if estimate is None else estimate.epsilon.detach(),
                of_inversion=noised.previous,
            )
            baseline = self.loss.function(known, self.config)
            gradient = gradients.distillation_gradient(guided, baseline, weight)
            figures = gradients.figures(guided, known["conditional"], baseline, weight) | {
                "schedule/t": t_fraction.mean(),
                "schedule/t_min": t_range[0],
                "schedule/t_max": t_range[1],
            }
            if known.of_estimator is not None:
                figures["estimator/error_ratio"] = gradients.error_ratio(
                    known.of_estimator, known["conditional"], noised.noise
                )
            return GuidanceOutput(gradients.limit_rms(gradient, self.config.max_gradient_rms), figures, training_loss)

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
        t = self._draw_levels(len(x_0), t_range, generator)
        noise = draw_noise(x_0, generator)
        together = self.model.views_together
        keep_camera = self.estimator.draw_keep_camera(len(x_0) // together, generator).repeat_interleave(together)
        x_t = self.model.schedule.add_noise(x_0, noise, t)
        plain = prompts.for_all(prompts.plain, cameras)
        prediction = self.estimator.predict(self.model, x_t, t, plain, cameras.c2w, keep_camera)
        return gradients.estimator_loss(prediction, x_0, noise, self.estimator.config.loss)

    @torch.no_grad()
    def samples(
        self, prompts: PromptEmbeddings, cameras: Cameras, steps: int, generator: torch.Generator
    ) -> list[Images]:
        """By DDIM. The prior reads the view's prompt, with guidance; the estimator the plain prompt and the camera."""
        texts, scale = prompts.for_cameras(cameras), self.config.guidance_scale

        def pretrained(x_t: Latents, t: Int[Tensor, "batch"]) -> Prediction:
            return guide(predict(self.model, x_t, t, _pair(texts, scale)), scale)

        def estimated(x_t: Latents, t: Int[Tensor, "batch"]) -> Prediction:
            return self._estimate(x_t, t, texts, cameras)

        shape = (len(cameras), *self.latent_shape)
        noise = torch.randn(shape, generator=generator, device=generator.device).to(self.model.device)
        both = (pretrained,) if self.estimator is None else (pretrained, estimated)
        return [self.decode(ddim(network, noise, self.model.schedule, steps)) for network in both]

    @torch.no_grad()
    def predictions(
        self,
        latents: Float[Tensor, "1 channels latent_height latent_width"],
        prompts: PromptEmbeddings,
        cameras: Cameras,
        levels: tuple[float, ...],
        generator: torch.Generator,
    ) -> list[Images]:
        """Without guidance, and all levels with the same noise. None of a model that sees no view alone."""
        if self.model.views_together > 1:
            return []
        count, schedule = len(levels), self.model.schedule
        t = (torch.tensor(levels) * (len(schedule) - 1)).long().to(latents.device)
        noise = draw_noise(latents, generator).expand(count, -1, -1, -1)
        x_t = schedule.add_noise(latents.expand(count, -1, -1, -1), noise, t)
        views = cameras[torch.zeros(count, dtype=torch.int64, device=cameras.c2w.device)]
        texts = prompts.for_cameras(views)
        both = (self.model.predict(x_t, t, texts.conditional), self._estimate(x_t, t, texts, views))
        return [self.decode(prediction.x_0) for prediction in both if prediction is not None]

    def _weight(self, t: Int[Tensor, "batch"], t_range: tuple[float, float]) -> Levels:
        """w(t) of ``guidance.weighting``."""
        schedule = self.model.schedule
        if self.config.weighting == "variance":
            return schedule.weight(t)
        allowed = self._levels_with_signal / len(schedule)
        if t_range[1] > allowed:
            raise ValueError(
                f"guidance.weighting: 'x0' divides by alpha, which is 0 above t = {allowed:.3f} of this prior, and "
                f"noise.t_max is {t_range[1]:g}; use guidance.weighting=variance, or lower noise.t_max"
            )
        return schedule.x0_weight(t)

    def _draw_levels(
        self, count: int, t_range: tuple[float, float], generator: torch.Generator
    ) -> Int[Tensor, "batch"]:
        """A noise level for each sample; views that the model sees together share one."""
        together = self.model.views_together
        if count % together:
            raise ValueError(
                f"{count} views are no whole number of groups of {together}, which this prior sees at once"
            )
        levels = self.model.schedule.sample_t(count // together, t_range, generator, self.model.device)
        return levels.repeat_interleave(together)

    def _asked(self, texts: PromptBatch, avoided: Mapping[str, Avoided]) -> dict[str, TextEmbeddings]:
        """The texts that the frozen network is asked with, by name."""
        scale = self.config.guidance_scale
        needs_pair = bool(avoided) or "unconditional" in self.loss.uses
        missing = [name for name in self.loss.texts if name not in texts.further]
        assert not missing, f"embed the prompt with the loss's further texts: {', '.join(missing)}"
        return {
            **_pair(texts, scale, needs_pair),
            **{name: view.text for name, view in avoided.items()},
            **{name: texts.further[name] for name in self.loss.texts},
        }

    def _estimate(
        self, x_t: Latents, t: Int[Tensor, "batch"], texts: PromptBatch, cameras: Cameras
    ) -> Prediction | None:
        """eps_phi where there is one, with its graph for ``shared_pass``."""
        if self.estimator is None:
            return None
        with torch.set_grad_enabled(self.config.shared_pass and torch.is_grad_enabled()):
            return self.estimator.predict(self.model, x_t, t, texts.plain, cameras.c2w)

    def _noised(self, x_0: Latents, t: Int[Tensor, "batch"], generator: torch.Generator) -> Noised:
        noise = draw_noise(x_0, generator)
        return Noised(self.model.schedule.add_noise(x_0, noise, t), noise)

    def _inverted(self, x_0: Latents, t: Int[Tensor, "batch"], texts: PromptBatch) -> Noised:
        """x_t where DDIM inversion leads, and the noise that makes it of x_0."""
        config, schedule = self.config.inversion, self.model.schedule

        def at(x: Latents, level: Int[Tensor, "batch"]) -> Prediction:
            if config.guidance_scale == 0:
                return self.model.predict(x, level, texts.unconditional)
            return guide(predict(self.model, x, level, _pair(texts, config.guidance_scale)), config.guidance_scale)

        found = invert(at, x_0, inversion_levels(t, config, schedule), schedule)
        noise = epsilon_from_x0(x_0, found.x_t, schedule.alpha(t), schedule.sigma(t))
        return Noised(found.x_t, noise, found.epsilon)


def _pair(texts: PromptBatch, scale: float, always: bool = False) -> dict[str, TextEmbeddings]:
    """What classifier-free guidance of a scale reads; at scale 1 the unconditional text would cancel."""
    unconditional = {"unconditional": texts.unconditional} if always or scale != 1 else {}
    return {**unconditional, "conditional": texts.conditional}


def draw_noise(like: Latents, generator: torch.Generator) -> Latents:
    """Standard normal noise of the shape and on the device of ``like``, drawn on the generator's device."""
    return to_device(torch.randn(like.shape, generator=generator, device=generator.device), like.device)
