"""Prompts to token ids, with errors where transformers would repair or cut off silently."""

from __future__ import annotations

import warnings
from pathlib import Path

from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase, T5TokenizerFast

from guidance.families.components import load_component
from guidance.model_files import ModelFiles
from settings.quoting import quoted

PARTS = "prompt, text.negative, text.view_template or guidance.nfsd.low_quality"  # of what is encoded


def load_tokenizer(kind: type[PreTrainedTokenizerBase], files: ModelFiles, name: str) -> PreTrainedTokenizerBase:
    """A tokenizer of a model, checked; raises as ``load_component`` and ``check_tokenizer``.

    The files of a folder are checked first, because transformers 4 fails without them in ways of its own. It reads
    CLIP's words from vocab.json and merges.txt alone; transformers 5 from tokenizer.json too.
    """
    if files.folder is not None and (files.folder / name).is_dir():
        _require_words(kind, files.folder, name)
    tokenizer = load_component(kind, files, name)
    check_tokenizer(tokenizer, files, name)
    return tokenizer


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase, source: ModelFiles | Path | str, name: str = "tokenizer"
) -> None:
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
        raise FileNotFoundError(_lacking(source, name, lacking))


def _require_words(kind: type[PreTrainedTokenizerBase], source: Path, name: str) -> None:
    """Check for the one file that holds everything, where the class reads such a file, or for all of the others."""
    files = dict(kind.vocab_files_names)
    whole = files.pop("tokenizer_file", None)
    choices = [list(files.values()), *([[whole]] if whole else [])]
    if not any(all((source / name / file).is_file() for file in choice) for choice in choices):
        words = ", or ".join(" and ".join(choice) for choice in choices)
        raise FileNotFoundError(_lacking(source, name, f"its words: {words}"))


def _lacking(source: ModelFiles | Path | str, name: str, what: str) -> str:
    return f"prior: the {name} of {str(source)!r} lacks {what}; fetch the model again"


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    limit: int | None = None,
    is_alone: bool = True,
    may_cut: bool = False,
) -> Int[Tensor, "batch tokens"]:
    """Token ids padded to ``limit``, or to the tokenizer's own length.

    Args:
        is_alone: whether no other tokenizer reads the text too, one that may know what this one doesn't; where one
            does, what is unknown here is a warning.
        may_cut: whether another encoder reads the text to its end; what does not fit here is then left out, with a
            warning.

    Raises:
        ValueError: a text with characters that the tokenizer does not know, or that does not fit; it would otherwise
            be misread or cut off silently.
    """
    limit = tokenizer.model_max_length if limit is None else limit
    for prompt in prompts:
        unknown = _unknown_characters(tokenizer, prompt)
        if unknown:
            message = f"prompt: the model's tokenizer does not know {' '.join(unknown)} in {quoted(prompt)}"
            if is_alone:
                raise ValueError(f"{message}, and would read them all alike; {PARTS} must do without them")
            warnings.warn(f"{message}; another of its text encoders reads them", stacklevel=2)
        ids = tokenizer(prompt).input_ids
        if len(ids) > limit:
            name = "T5" if isinstance(tokenizer, T5TokenizerFast) else "CLIP"
            takes = (
                f"prompt: {quoted(prompt)} takes {len(ids)} tokens, the model's {name} text encoder takes {limit} "
                "(marks of start and end included)"
            )
            if not may_cut:
                raise ValueError(f"{takes}; shorten what it comes from: {PARTS}")
            missed = tokenizer.decode(ids[limit - 1 : -1])
            warnings.warn(f"{takes} and misses {quoted(missed)}; its T5 reads all of it", stacklevel=2)
    return tokenizer(prompts, padding="max_length", max_length=limit, truncation=may_cut, return_tensors="pt").input_ids


def _unknown_characters(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """The characters without a token (CLIP's mark for them also ends every text, hence no special tokens)."""

    def is_unknown(part: str) -> bool:
        return tokenizer.unk_token_id in tokenizer(part, add_special_tokens=False).input_ids

    return [character for character in dict.fromkeys(text) if is_unknown(character)] if is_unknown(text) else []
