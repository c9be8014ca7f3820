"""Settings of the guidance: the loss, its strength, the texts and the estimator. Nothing here imports PyTorch."""

from __future__ import annotations

from dataclasses import fields
from string import Formatter
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field

from guidance.registry import LOSSES, Loss
from renderers.config import VIEW_WORDS, ViewThresholds
from settings.constraints import NonNegative, OneOf, OpenShare, Positive, PositiveInt, Share
from settings.fields import Conflict, section, setting

EstimatorLoss = Literal["velocity", "epsilon"]
AdaptedLayers = Literal["attention", "all"]
NetworkSpeed = Literal["plain", "channels_last", "graphs", "compiled"]
Weighting = Literal["variance", "x0"]
FLAWS = "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy"


@section
class DebiasingConfig:
    """Which words a view's prompt goes without."""

    model: str | None = None  # masked language model: folder or hub id, such as bert-base-uncased; None: lists alone
    # Factor on its view's likelihood below which a word contradicts the view: 0.9 is usual, 0.5 drops only words that
    # halve it. In threestudio's terms, a share of the mean of the likelihoods with and without the word, 0.9 is 0.95.
    threshold: OpenShare = 0.9
    candidates: tuple[str, ...] = ()  # the words that the model judges; none: all of the prompt's
    front: tuple[str, ...] = ()  # words that the prompt of a front view goes without in any case
    side: tuple[str, ...] = ()  # the same for a side view
    back: tuple[str, ...] = ()  # the same for a back view
    overhead: tuple[str, ...] = ()  # the same for a view from above
    bottom: tuple[str, ...] = ()  # the same for a view from below

    @property
    def is_used(self) -> bool:
        return self.model is not None or any(self.listed(view) for view in VIEW_WORDS)

    def listed(self, view: str) -> tuple[str, ...]:
        return tuple(getattr(self, view))


def _check_template(template: str) -> str:
    try:
        names = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError as error:
        names = {str(error)}
    if "prompt" not in names or not names <= {"prompt", "view"}:
        raise ValueError(
            "must contain {prompt} and may contain {view}, nothing else in braces; "
            'the default is "{prompt}, {view} view"'
        )
    return template


@section
class TextConfig:
    """The texts beside the prompt itself."""

    negative: str = ""  # negative prompt of classifier-free guidance
    # Prompt of a view; {view}: front, side, back, overhead or bottom.
    view_template: Annotated[str, AfterValidator(_check_template)] = "{prompt}, {view} view"
    view_thresholds: ViewThresholds = setting(factory=ViewThresholds)  # where view words begin and end, degrees
    # Scale that guidance-distilled models (FLUX) read; FLUX.1-dev is made for about 1.5 to 5. None: the model's own.
    embedded_guidance: NonNegative | None = None
    debiasing: DebiasingConfig = setting(factory=DebiasingConfig)  # words that contradict a view


@section
class InversionConfig:
    """How ISM and SDI get from clean latents to x_t."""

    steps: PositiveInt = 10  # network calls on the way to x_t; SDI's 10
    # Length of the last step as a fraction of the schedule, in (0, 1]; ISM's 0.05. None: as long as the others.
    interval: Annotated[float, Field(gt=0, le=1)] | None = None
    guidance_scale: float = 0.0  # on the way; 0 reads no text (ISM); SDI's paper reads it at -7.5

    def __post_init__(self) -> None:
        if self.interval is not None and self.steps < 2:
            raise Conflict(
                ("steps", "interval"),
                f"{self.steps} steps leave none before the interval; use at least 2, or interval=null",
            )


@section
class PerpNegConfig:
    """How strongly every other view is kept away from each view word; all 0: not at all, and at no cost."""

    front: NonNegative = 0.0  # against a second face: about 1.6 (threestudio's at a side view, 2.0 from behind)
    side: NonNegative = 0.0  # 1 keeps other views clearly away from "side view"
    back: NonNegative = 0.0  # 1 keeps other views clearly away from "back view"
    overhead: NonNegative = 0.0  # 1 keeps other views clearly away from "overhead view"
    bottom: NonNegative = 0.0  # 1 keeps other views clearly away from "bottom view"

    @property
    def weights(self) -> dict[str, float]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def words(self) -> tuple[str, ...]:
        """The view words to keep away from."""
        return tuple(word for word, weight in self.weights.items() if weight)


@section
class EstimatorConfig:
    """Size and training of the LoRA estimator; its optimizer is configured elsewhere."""

    rank: PositiveInt = 4  # of the adapters; the paper's code uses 4
    scale: Positive = 1.0  # factor on the adapters' output (peft's alpha / rank)
    # Which layers have adapters: the attention's projections as in the paper, or every linear layer and convolution.
    layers: AdaptedLayers = "attention"
    camera_dropout: Share = 0.1  # probability that training hides the camera
    loss: EstimatorLoss = "velocity"  # error that is minimised: of v as in the paper, or of eps
    gradient_checkpointing: bool = setting(False, change="anywhere")  # less memory, a second forward pass in training


@section
class NfsdConfig:
    """How NFSD tells delta_D from noise."""

    low_quality: str = FLAWS  # text of the flaws to take away, for priors that know such words
    # Noise level as a fraction of the schedule, below which eps_u is taken as it is; the paper's 0.2.
    nearly_clean: Share = 0.2


class ModelSetting(NamedTuple):
    """The field that names the frozen model, and its value."""

    field: str
    path: str  # a folder or a hub id


@section
class GuidanceConfig:
    """Which loss, and how strongly the text counts. Noise ranges are arguments of a step."""

    loss: Annotated[str, OneOf(LOSSES)] = setting("vsd", state=True)  # as guidance/losses.py declares it
    # Of the frozen score only; 1: none. The paper's 7.5 for VSD, 100 for SDS. For clip: factor of the loss.
    guidance_scale: NonNegative = setting(7.5, change="resume")
    # w(t). variance: sigma^2 / (alpha^2 + sigma^2), as in the papers. x0: sigma / alpha, by which SDS's gradient is
    # x_0 minus the predicted x_0 (MVDream).
    weighting: Weighting = setting("variance", change="resume")
    # How far the spread of the guided x_0 goes back to the unguided one's; 0: not at all, 1: all the way; MVDream: 0.5.
    rescale: Share = setting(0.0, change="resume")
    shared_pass: bool = False  # one estimator pass for score and training: cheaper, but its noise range is the scene's
    # Shrink a sample's gradient to this root mean square; None: never.
    max_gradient_rms: Positive | None = setting(None, change="resume")
    perp_neg: PerpNegConfig = setting(factory=PerpNegConfig)  # views to keep away from; not for clip
    nfsd: NfsdConfig = setting(factory=NfsdConfig)  # of the loss nfsd
    inversion: InversionConfig = setting(factory=InversionConfig)  # of the losses ism and sdi
    # For clip, and for --mode test's similarity: the bundled judge, or a folder or hub id of a CLIP of transformers.
    clip_model: str = setting("priors/judge", change="test")

    def __post_init__(self) -> None:
        if self.shared_pass and not self.trains_estimator:
            raise Conflict("shared_pass", f"the loss {self.loss!r} trains no estimator; set shared_pass to false")
        if self.reads == "images" and (self.rescale or self.weighting != "variance"):
            raise Conflict(
                ("rescale", "weighting"),
                f"are for predictions of noise, and the loss {self.loss!r} has none; leave both out",
            )
        if self.reads == "images" and self.perp_neg.words:
            raise Conflict(
                "perp_neg",
                f"keeps predictions of noise away from other views, and the loss {self.loss!r} has none; set its "
                "weights to 0",
            )

    @property
    def declaration(self) -> Loss:
        """What the loss declares in ``guidance/losses.py``."""
        return LOSSES[self.loss]

    @property
    def reads(self) -> Literal["latents", "images"]:
        """Latents of a diffusion prior, or images through an image-text model."""
        return self.declaration.reads

    @property
    def trains_estimator(self) -> bool:
        return self.declaration.trains_estimator

    @property
    def further_texts(self) -> dict[str, str]:
        """The texts that the loss asks the frozen network with, beside the prompt's own, by name."""
        return self.declaration.further_texts(self)

    @property
    def reads_negative(self) -> bool:
        """Whether the negative prompt, or no text, has a part in the loss."""
        loss = self.declaration
        return (
            loss.reads == "images"
            or self.guidance_scale != 1.0
            or bool(self.perp_neg.words)
            or "unconditional" in loss.uses
            or (loss.inverts and self.inversion.guidance_scale != 1.0)
        )

    def frozen_model(self, prior_path: str) -> ModelSetting:
        """The model that the loss needs: the prior at ``prior_path``, or the image-text model."""
        if self.reads == "images":
            return ModelSetting("guidance.clip_model", self.clip_model)
        return ModelSetting("prior", prior_path)
