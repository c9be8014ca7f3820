"""Prompts to token ids, with errors where transformers would repair or cut off silently."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, source: Path | str, name: str = "tokenizer") -> None:
    """Transformers fills in for missing files silently, with a tokenizer that knows no word or no limit.

    Raises:
        FileNotFoundError: so it happened.
    """
    lacking = None
    if len(tokenizer) <= len(tokenizer.all_special_tokens) + 1:  # T5's includes an empty piece
        lacking = "its words: vocab.json and merges.txt, tokenizer.json, or spiece.model"
    elif tokenizer.model_max_length > 100_000:
        lacking = "the longest prompt it takes: model_max_length in tokenizer_config.json"
    if lacking is not None:
        raise FileNotFoundError(f"prior: the {name} of {str(source)!r} lacks {lacking}; fetch the model again")


def tokenize(
    tokenizer: PreTrainedTokenizerBase, prompts: list[str], limit: int | None = None
) -> Int[Tensor, "batch tokens"]:
    """Token ids padded to ``limit``, or to the tokenizer's own length.

    Raises:
        ValueError: a prompt that holds words unknown to the tokenizer, or that does not fit; it would otherwise
            be misread or cut off silently.
    """
    limit = tokenizer.model_max_length if limit is None else limit
    for prompt in prompts:
        unknown = [word for word in prompt.split() if _is_unknown(tokenizer, word)]
        if unknown:
            raise ValueError(
                f"prompt: {prompt!r} holds what the model's tokenizer does not know: {', '.join(unknown)}; it would "
                "read them all as the same unknown word; say it in other words"
            )
        length = len(tokenizer(prompt).input_ids)
        if length > limit:
            raise ValueError(
                f"prompt: {prompt!r} takes {length} tokens, the model's text encoder takes {limit} "
                "(its start and end marks included); shorten what it comes from: prompt, text.negative, "
                "text.view_template or guidance.nfsd.low_quality"
            )
    return tokenizer(prompts, padding="max_length", max_length=limit, return_tensors="pt").input_ids


def _is_unknown(tokenizer: PreTrainedTokenizerBase, word: str) -> bool:
    """Whether a word, or a part of it, has no token of its own (CLIP's mark for that also ends every text)."""
    return tokenizer.unk_token_id in tokenizer(word, add_special_tokens=False).input_ids
