"""Prompt debiasing: each view's prompt without the words that contradict the view.

Hong et al. 2023 (arXiv 2303.15413): "smiling" makes a front view more likely than the text says, so the back
view's prompt is better off without it. Words are listed by hand for each view, or found by a masked language
model: in "This image is depicting a [MASK] view of PROMPT" it says how likely each view word is; a word of the
prompt contradicts a view if it makes that view's word less likely than a given factor.

Their other remedy, clipping the scores, is here ``guidance.max_gradient_rms``: a limit for a sample's gradient
as a whole instead of for each value.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub.errors import HFValidationError
from jaxtyping import Float
from torch import Tensor

from guidance.config import DebiasingConfig
from guidance.hub import ask_hub_once
from guidance.weights import load_whole
from renderers.config import VIEW_WORDS
from settings.quoting import quoted

MOST_WORDS = 30  # that a message lists
SENTENCE = "This image is depicting a {mask} view of {prompt}"

logger = logging.getLogger(__name__)


class ViewLanguageModel:
    """How likely a masked language model finds each view word in a sentence."""

    def __init__(self, path_or_id: str) -> None:
        """Load it.

        Raises:
            FileNotFoundError: no such folder or id, or no network.
            ValueError: a view word that the tokenizer takes apart, or weights that are not all there.
        """
        from transformers import AutoModelForMaskedLM, AutoTokenizer  # here, because few runs need them

        source = Path(path_or_id).expanduser() if Path(path_or_id).expanduser().is_dir() else path_or_id
        if not isinstance(source, Path):
            ask_hub_once()
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(source)
            # Checkpoints of such models hold more, such as BERT's head for the next sentence.
            self.model = load_whole(AutoModelForMaskedLM, source, "text.debiasing.model", unused=("",)).eval()
        except (OSError, HFValidationError) as error:  # the second for a path that is no folder, by transformers 4
            reason = str(error).splitlines()[0].rstrip(". ")
            raise FileNotFoundError(
                f"text.debiasing.model: {path_or_id!r} cannot be loaded: {reason}; use a folder or the hub id of a "
                "masked language model, or list the words by hand (text.debiasing.back and the like)"
            ) from error
        self.words = self.tokenizer.convert_tokens_to_ids(list(VIEW_WORDS))
        unknown = [word for word, index in zip(VIEW_WORDS, self.words, strict=True) if self._is_unknown(index)]
        if unknown:
            raise ValueError(
                f"text.debiasing.model: {path_or_id!r} has no single token for {', '.join(unknown)}; "
                "use another model, such as bert-base-uncased"
            )

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> Float[Tensor, "prompts views"]:
        """Probabilities of ``VIEW_WORDS`` among themselves."""
        sentences = [SENTENCE.format(mask=self.tokenizer.mask_token, prompt=prompt) for prompt in prompts]
        batch = self.tokenizer(sentences, padding=True, return_tensors="pt")
        masked = batch.input_ids == self.tokenizer.mask_token_id
        return self.model(**batch).logits[masked][:, self.words].float().softmax(dim=-1)

    def _is_unknown(self, index: int | None) -> bool:
        return index is None or index == self.tokenizer.unk_token_id


def contradicting_words(prompt: str, config: DebiasingConfig) -> dict[str, tuple[str, ...]]:
    """For each view word, the words that its prompt goes without.

    Raises:
        ValueError: a listed word that the prompt lacks, or nothing would be left of a view's prompt.
    """
    for name in ("candidates", *VIEW_WORDS):
        absent = [word for word in getattr(config, name) if without_words(prompt, (word,)) == prompt]
        if absent:
            raise ValueError(
                f"text.debiasing.{name}: {', '.join(map(repr, absent))} not in the prompt {quoted(prompt)}; "
                f"its words are {', '.join(words_of(prompt)[:MOST_WORDS])}"
            )
    found: dict[str, tuple[str, ...]] = {}
    if config.model is not None:
        candidates = config.candidates or words_of(prompt)
        found = find_contradictions(prompt, candidates, ViewLanguageModel(config.model), config.threshold)
    dropped = {view: (*config.listed(view), *found.get(view, ())) for view in VIEW_WORDS}
    for view, words in dropped.items():
        rest = without_words(prompt, words)
        if not words_of(rest):
            raise ValueError(
                f"text.debiasing: the {view} view's prompt would lose all its words ({', '.join(words)}); "
                "lower threshold, set candidates, or list fewer words"
            )
        if rest != prompt:
            logger.warning("debiasing: the %s view's prompt is %r", view, rest)
    return dropped


def find_contradictions(
    prompt: str,
    candidates: tuple[str, ...],
    likelihoods: Callable[[list[str]], Float[Tensor, "prompts views"]],
    threshold: float,
) -> dict[str, tuple[str, ...]]:
    """Candidates that make a view's word less likely than ``threshold`` times what it is without them."""
    present = [word for word in dict.fromkeys(candidates) if words_of(without_words(prompt, (word,)))]
    rows = likelihoods([prompt, *(without_words(prompt, (word,)) for word in present)])
    factors = rows[:1] / rows[1:]
    return {
        view: tuple(word for word, factor in zip(present, column, strict=True) if factor < threshold)
        for view, column in zip(VIEW_WORDS, factors.T.tolist(), strict=True)
    }


def words_of(text: str) -> tuple[str, ...]:
    """Its words, each once, in order."""
    return tuple(dict.fromkeys(re.findall(r"[\w'-]+", text)))


def without_words(text: str, words: tuple[str, ...]) -> str:
    """The text less some whole words in any case of letters; spaces and commas that they leave behind go too."""
    if not words:
        return text
    pattern = "|".join(re.escape(word) for word in words)
    text = re.sub(rf"(?<![\w'-])(?:{pattern})(?![\w'-])", " ", text, flags=re.IGNORECASE)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+,", ",", text)
    return re.sub(r"(?:,\s*)+(?=,|$)", "", text).strip(" ,")
