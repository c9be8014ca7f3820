"""One prompt as the guidance needs it: with a view word, plain, and negative.

The frozen score reads y^c, the prompt with the camera's view word; the LoRA estimator reads the plain
prompt y and the camera itself (Wang et al. 2023, arXiv 2305.16213, section 3). The negative prompt stands
wherever a paper writes "no text". Everything is encoded once, at the start; a step only picks rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from string import Formatter

import torch

from guidance.debiasing import DebiasingConfig, contradicting_words, without_words
from guidance.image_text import ImageTextModel
from guidance.prior import DiffusionPrior, TextEmbeddings
from renderers.cameras import VIEW_WORDS, Cameras, ViewThresholds, view_index


@dataclass(frozen=True)
class PromptConfig:
    """What to make, in words."""

    prompt: str
    negative_prompt: str = ""  # what classifier-free guidance pushes away from
    view_template: str = "{prompt}, {view} view"  # {view} is one of renderers.cameras.VIEW_WORDS
    view_thresholds: ViewThresholds = field(default_factory=ViewThresholds)  # degrees
    embedded_guidance: float | None = None  # scale a guidance-distilled model (FLUX.1-dev) reads; None: its usual one
    debiasing: DebiasingConfig = field(default_factory=DebiasingConfig)  # words that contradict a view
    low_quality: str | None = None  # a text of flaws, for losses that read one

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ValueError(f'prompt: {self.prompt!r} is empty; say what to make, such as prompt="a red mug"')
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

    def view_prompt(self, view: str, dropped: tuple[str, ...] = ()) -> str:
        """y^c for one view word, without the words that contradict it."""
        return self.view_template.format(prompt=without_words(self.prompt.strip(), dropped), view=view)


@dataclass(frozen=True)
class PromptBatch:
    """Embeddings of one batch of cameras, a row each."""

    conditional: TextEmbeddings  # y^c, for the frozen score
    unconditional: TextEmbeddings  # the negative prompt, for classifier-free guidance
    plain: TextEmbeddings  # y, for the LoRA estimator
    low_quality: TextEmbeddings | None  # a text of flaws, for NFSD


@dataclass(frozen=True)
class PromptEmbeddings:
    """All embeddings of a prompt."""

    views: TextEmbeddings  # a row for each of VIEW_WORDS
    plain: TextEmbeddings  # one row
    negative: TextEmbeddings  # one row
    view_thresholds: ViewThresholds
    low_quality: TextEmbeddings | None = None  # one row; only where a loss reads it

    def for_cameras(self, cameras: Cameras) -> PromptBatch:
        """Pick each camera's rows."""
        index = view_index(cameras.azimuth_deg, cameras.elevation_deg, self.view_thresholds)
        count = len(cameras)
        return PromptBatch(
            conditional=self.views[index.to(self.views.tokens.device)],
            unconditional=self.negative.expand(count),
            plain=self.plain.expand(count),
            low_quality=None if self.low_quality is None else self.low_quality.expand(count),
        )

    def to(self, device: torch.device | str) -> PromptEmbeddings:
        parts = (part.to(device) for part in (self.views, self.plain, self.negative))
        low_quality = None if self.low_quality is None else self.low_quality.to(device)
        return PromptEmbeddings(*parts, self.view_thresholds, low_quality)


def embed_prompt(
    prior: DiffusionPrior | ImageTextModel, config: PromptConfig, release_text_encoder: bool = True
) -> PromptEmbeddings:
    """Encode all of a prompt's forms in one call, then free the text encoder unless it is kept on purpose.

    Embedded guidance is the frozen score's alone, as classifier-free guidance is: the plain prompt, which the
    estimator reads, has none.

    Raises:
        ValueError: a form that is longer than the tokenizer takes, or an embedded guidance that the model can't read.
    """
    dropped = contradicting_words(config.prompt.strip(), config.debiasing)
    views = [config.view_prompt(word, dropped[word]) for word in VIEW_WORDS]
    flaws = [] if config.low_quality is None else [config.low_quality.strip()]
    embeddings = prior.encode_text([*views, config.prompt.strip(), config.negative_prompt.strip(), *flaws])
    if release_text_encoder:
        prior.release_text_encoder()
    if config.embedded_guidance is not None:
        if embeddings.guidance is None:
            raise ValueError(
                f"embedded_guidance: {config.embedded_guidance:g} was given, but this model has no such input; "
                "set it to null and use guidance_scale"
            )
        embeddings = embeddings.with_guidance(config.embedded_guidance)
    count = len(views)
    plain = embeddings[count : count + 1].with_guidance(1.0)
    negative, low_quality = embeddings[count + 1 : count + 2], embeddings[count + 2 :] if flaws else None
    return PromptEmbeddings(embeddings[:count], plain, negative, config.view_thresholds, low_quality)
