"""Which loss pulls, and how strongly."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from string import Formatter

from guidance.losses import ESTIMATOR_LOSSES, IMAGE_LOSSES, LOSSES
from renderers.config import ViewThresholds
from settings.fields import setting

FLAWS = "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy"


@dataclass(frozen=True)
class DebiasingConfig:
    """Which words a view's prompt goes without."""

    model: str | None = None  # masked language model: folder or hub id, such as bert-base-uncased; None: lists alone
    # Factor on its view's likelihood below which a word contradicts the view. In threestudio's terms, a share of the
    # mean of the likelihoods with and without the word, it is 0.95.
    threshold: float = 0.9
    candidates: tuple[str, ...] = ()  # the words that the model judges; none: all of the prompt's
    front: tuple[str, ...] = ()  # words that the prompt of this view goes without in any case
    side: tuple[str, ...] = ()
    back: tuple[str, ...] = ()
    overhead: tuple[str, ...] = ()
    bottom: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(
                f"threshold: {self.threshold:g} must lie in (0, 1); 0.9 is usual, 0.5 drops only words that halve it"
            )

    def listed(self, view: str) -> tuple[str, ...]:
        return tuple(getattr(self, view))


@dataclass(frozen=True)
class TextConfig:
    """What is said beside the prompt itself."""

    negative: str = ""  # what classifier-free guidance pushes away from
    view_template: str = "{prompt}, {view} view"  # {view}: front, side, back, overhead or bottom
    view_thresholds: ViewThresholds = field(default_factory=ViewThresholds)  # degrees
    embedded_guidance: float | None = None  # scale that guidance-distilled models (FLUX) read; None: the model's own
    debiasing: DebiasingConfig = field(default_factory=DebiasingConfig)  # words that contradict a view

    def __post_init__(self) -> None:
        try:
            names = {name for _, name, _, _ in Formatter().parse(self.view_template) if name is not None}
        except ValueError as error:
            names = {str(error)}
        if "prompt" not in names or not names <= {"prompt", "view"}:
            raise ValueError(
                f"view_template: {self.view_template!r} must contain {{prompt}} and may contain {{view}}, "
                'nothing else in braces; the default is "{prompt}, {view} view"'
            )
        if self.embedded_guidance is not None and not (
            math.isfinite(self.embedded_guidance) and self.embedded_guidance >= 0
        ):
            raise ValueError(
                f"embedded_guidance: {self.embedded_guidance:g} must be 0 or more; FLUX.1-dev is made for about "
                "1.5 to 5, null takes its usual 3.5"
            )


@dataclass(frozen=True)
class InversionConfig:
    """How ISM and SDI get from clean latents to x_t."""

    steps: int = 10  # network calls on the way to x_t; SDI's 10
    interval: float | None = None  # length of the last step, of the schedule's [0, 1]; None: as long as the others
    guidance_scale: float = 0.0  # on the way; 0 reads no text (ISM); SDI's paper reads it at -7.5

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps: {self.steps} must be at least 1; SDI's paper takes 10")
        if self.interval is not None and not 0 < self.interval <= 1:
            raise ValueError(
                f"interval: {self.interval:g} is no part of the noise schedule; use a number in (0, 1], such as "
                "ISM's 0.05, or null for steps of equal length"
            )
        if self.interval is not None and self.steps < 2:
            raise ValueError(f"steps: {self.steps} leaves none before the interval; use at least 2, or interval=null")
        if not math.isfinite(self.guidance_scale):
            raise ValueError(f"guidance_scale: {self.guidance_scale:g} must be finite; 0 reads no text")


@dataclass(frozen=True)
class PerpNegConfig:
    """How strongly every other view is kept away from each view word; all 0: not at all, and at no cost."""

    front: float = 0.0  # against a second face: about 1.6 (threestudio's at a side view, 2.0 from behind)
    side: float = 0.0
    back: float = 0.0
    overhead: float = 0.0
    bottom: float = 0.0

    def __post_init__(self) -> None:
        for word, weight in self.weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"{word}: {weight:g} must be 0 or more; 1 keeps other views clearly away from it")

    @property
    def weights(self) -> dict[str, float]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def words(self) -> tuple[str, ...]:
        """The view words to keep away from."""
        return tuple(word for word, weight in self.weights.items() if weight)


@dataclass(frozen=True)
class EstimatorConfig:
    """Size and training of the LoRA estimator; its optimizer is configured elsewhere."""

    rank: int = 4  # of the adapters
    scale: float = 1.0  # factor on the adapters' output (peft's alpha / rank)
    camera_dropout: float = 0.1  # probability that training hides the camera
    loss: str = "velocity"  # "velocity" as in the paper, or "epsilon"
    gradient_checkpointing: bool = setting(False, change="anywhere")  # less memory, a second forward pass in training

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank: {self.rank} must be at least 1; the paper's code uses 4")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale: {self.scale:g} must be positive; 1 is the usual value")
        if not 0 <= self.camera_dropout <= 1:
            raise ValueError(f"camera_dropout: {self.camera_dropout:g} is no probability; use a number in [0, 1]")
        if self.loss not in ESTIMATOR_LOSSES:
            raise ValueError(f"loss: {self.loss!r} is unknown; use one of {', '.join(ESTIMATOR_LOSSES)}")


@dataclass(frozen=True)
class NfsdConfig:
    """What tells NFSD's delta_D from noise."""

    low_quality: str = FLAWS  # text of the flaws to take away, for priors that know such words
    nearly_clean: float = 0.2  # noise level, of the schedule's [0, 1], below which eps_u is taken as it is

    def __post_init__(self) -> None:
        if not 0 <= self.nearly_clean <= 1:
            raise ValueError(f"nearly_clean: {self.nearly_clean:g} is not in [0, 1]; the paper's is 0.2")


@dataclass(frozen=True)
class GuidanceConfig:
    """Which loss, and how strongly the text counts. Noise ranges are arguments of a step."""

    loss: str = setting("vsd", state=True)  # one of guidance.losses.LOSSES, or clip
    # Of the frozen score only; the paper's 7.5 for VSD, 100 for SDS; factor of clip's loss.
    guidance_scale: float = setting(7.5, change="resume")
    shared_pass: bool = False  # one estimator pass for score and training: cheaper, but its noise range is the scene's
    # Both scores in one call of the network, the training pass apart; null: where the weights have half precision.
    one_batch: bool | None = setting(None, change="anywhere")
    max_gradient_rms: float | None = setting(
        None, change="resume"
    )  # shrink a sample's gradient to this root mean square; None: never
    perp_neg: PerpNegConfig = field(default_factory=PerpNegConfig)  # views to keep away from; not for clip
    nfsd: NfsdConfig = field(default_factory=NfsdConfig)
    inversion: InversionConfig = field(default_factory=InversionConfig)  # for ism and sdi
    # For clip, and for --mode test's similarity: the bundled judge, or a folder or hub id of a CLIP of transformers.
    clip_model: str = setting("priors/judge", change="test")

    def __post_init__(self) -> None:
        if self.loss not in (*LOSSES, *IMAGE_LOSSES):
            raise ValueError(f"loss: {self.loss!r} is unknown; use one of {', '.join((*LOSSES, *IMAGE_LOSSES))}")
        if not (math.isfinite(self.guidance_scale) and self.guidance_scale >= 0):
            raise ValueError(
                f"guidance_scale: {self.guidance_scale:g} must be 0 or more (1 is no guidance); "
                "the paper uses 7.5 for VSD and 100 for SDS"
            )
        if self.max_gradient_rms is not None and not self.max_gradient_rms > 0:
            raise ValueError(f"max_gradient_rms: {self.max_gradient_rms:g} must be positive, or null for no limit")
        if self.shared_pass and not self.needs_estimator:
            raise ValueError(f"shared_pass: the loss {self.loss!r} trains no estimator; set shared_pass to false")
        if self.one_batch and not self.needs_estimator:
            raise ValueError(f"one_batch: the loss {self.loss!r} has one score only; set one_batch to null")
        if self.one_batch and self.shared_pass:
            raise ValueError(
                "one_batch: with shared_pass the estimator's call is also its training pass, and the frozen rows would "
                "go through its backward pass for nothing; set one of them to false"
            )
        if self.works_on_images and self.perp_neg.words:
            raise ValueError(
                f"perp_neg: keeps predictions of noise away from other views, and the loss {self.loss!r} has none; "
                "set its weights to 0"
            )

    @property
    def works_on_images(self) -> bool:
        """Whether the loss looks at images through an image-text model, and needs no diffusion prior."""
        return self.loss in IMAGE_LOSSES

    @property
    def needs_estimator(self) -> bool:
        return not self.works_on_images and LOSSES[self.loss].needs_estimator

    @property
    def reads_negative(self) -> bool:
        """Whether the negative prompt, or no text, has a part in the loss."""
        if self.works_on_images or self.guidance_scale != 1.0 or self.perp_neg.words:
            return True
        loss = LOSSES[self.loss]
        return loss.needs_unconditional or (loss.inverts and self.inversion.guidance_scale != 1.0)

    @property
    def low_quality(self) -> str | None:
        """The text of flaws, where the loss reads one."""
        if self.works_on_images or not LOSSES[self.loss].needs_low_quality:
            return None
        return self.nfsd.low_quality
