"""One prompt as the guidance needs it: with a view word, plain, and negative.

The frozen score reads y^c, the prompt with the camera's view word; the LoRA estimator reads the plain
prompt y and the camera itself (Wang et al. 2023, arXiv 2305.16213, section 3). The negative prompt stands
wherever a paper writes "no text". Everything is encoded once, at the start; a step only picks rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from guidance.config import TextConfig
from guidance.debiasing import contradicting_words, without_words
from guidance.frozen_model import FrozenModel, TextEmbeddings
from renderers.cameras import Cameras, view_index
from renderers.config import VIEW_WORDS, ViewThresholds


@dataclass(frozen=True)
class PromptBatch:
    """Embeddings of one batch of cameras, a row each."""

    conditional: TextEmbeddings  # y^c, for the frozen score
    unconditional: TextEmbeddings  # the negative prompt, for classifier-free guidance
    plain: TextEmbeddings  # y, for the LoRA estimator
    further: Mapping[str, TextEmbeddings]  # texts that the loss declares


@dataclass(frozen=True)
class PromptEmbeddings:
    """All embeddings of a prompt."""

    views: TextEmbeddings  # a row for each of VIEW_WORDS
    plain: TextEmbeddings  # one row
    negative: TextEmbeddings  # one row
    view_thresholds: ViewThresholds
    further: Mapping[str, TextEmbeddings] = field(default_factory=dict)  # texts that the loss declares, a row each
    with_cameras: bool = False  # the network reads the camera beside the text

    def for_cameras(self, cameras: Cameras) -> PromptBatch:
        """Pick each camera's rows."""
        index = view_index(cameras.azimuth_deg, cameras.elevation_deg, self.view_thresholds)
        return PromptBatch(
            conditional=self._seen(self.views[index.to(self.views.tokens.device)], cameras),
            unconditional=self.for_all(self.negative, cameras),
            plain=self.for_all(self.plain, cameras),
            further={name: self.for_all(text, cameras) for name, text in self.further.items()},
        )

    def for_all(self, text: TextEmbeddings, cameras: Cameras) -> TextEmbeddings:
        """One text for every camera."""
        return self._seen(text.expand(len(cameras)), cameras)

    def _seen(self, texts: TextEmbeddings, cameras: Cameras) -> TextEmbeddings:
        return texts.seen_from(cameras.c2w) if self.with_cameras else texts

    def to(self, device: torch.device | str) -> PromptEmbeddings:
        parts = (part.to(device) for part in (self.views, self.plain, self.negative))
        further = {name: text.to(device) for name, text in self.further.items()}
        return PromptEmbeddings(*parts, self.view_thresholds, further, self.with_cameras)


def view_prompt(config: TextConfig, prompt: str, view: str, dropped: tuple[str, ...] = ()) -> str:
    """y^c for one view word, without the words that contradict it."""
    return config.view_template.format(prompt=without_words(prompt.strip(), dropped), view=view)


def embed_prompt(
    model: FrozenModel,
    prompt: str,
    text: TextConfig | None = None,
    further: Mapping[str, str] | None = None,
    release_text_encoder: bool = True,
) -> PromptEmbeddings:
    """Encode all of a prompt's forms in one call, then free the text encoder unless it is kept on purpose.

    Embedded guidance is the frozen score's alone, as classifier-free guidance is: the plain prompt, which the
    estimator reads, has none.

    Args:
        further: texts that the loss declares, by name (``GuidanceConfig.further_texts``).

    Raises:
        ValueError: an empty prompt, a form that the tokenizer cannot read or that is longer than it takes, or an
            embedded guidance that the model can't read.
    """
    prompt, text = prompt.strip(), text or TextConfig()
    if not prompt:
        raise ValueError("prompt: '' is empty; say what to make, such as prompt=\"a red mug\"")
    dropped = contradicting_words(prompt, text.debiasing)
    views = [view_prompt(text, prompt, word, dropped[word]) for word in VIEW_WORDS]
    further = further or {}
    own = [*views, prompt, text.negative.strip()]
    embeddings = model.encode_text([*own, *(said.strip() for said in further.values())])
    if release_text_encoder:
        model.release_text_encoder()
    if text.embedded_guidance is not None:
        if embeddings.guidance is None:
            raise ValueError(
                f"embedded_guidance: {text.embedded_guidance:g} was given, but this model has no such input; "
                "set it to null and use guidance_scale"
            )
        embeddings = embeddings.with_guidance(text.embedded_guidance)
    rows = [embeddings[index : index + 1] for index in range(len(views), len(embeddings))]
    plain, negative, *others = rows
    return PromptEmbeddings(
        embeddings[: len(views)],
        plain.with_guidance(1.0),
        negative,
        text.view_thresholds,
        dict(zip(further, others, strict=True)),
        with_cameras=model.views_together > 1,
    )
