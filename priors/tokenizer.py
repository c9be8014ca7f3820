"""The bundled prior's tokenizer: a real ``CLIPTokenizer`` whose vocabulary is the world's words."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import CLIPTokenizer

MAX_TOKENS = 16  # start, up to 14 words and marks, end; the longest caption takes 13


def build_tokenizer(words: list[str]) -> CLIPTokenizer:
    """A byte-pair tokenizer that knows each word as one token.

    Other words fall apart into pieces, down to letters, so that they can be told from known ones.
    """
    end = "</w>"
    letters = [chr(code) for code in range(33, 127) if not 65 <= code <= 90]
    tokens = [*letters, *(letter + end for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in words:
        pieces = [*word[:-1], word[-1] + end]
        # Words are built from their end, so that no merge of one word can split another's ending.
        while len(pieces) > 1:
            pair = (pieces[-2], pieces[-1])
            if pair not in merges:
                merges.append(pair)
                tokens.append("".join(pair))
            pieces[-2:] = ["".join(pair)]
    special = ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*tokens, *special]))}
    with TemporaryDirectory() as folder:  # all versions of transformers read files, only 5 takes the tables themselves
        vocab, lines = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocab.write_text(json.dumps(vocabulary), encoding="utf-8")
        lines.write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n", encoding="utf-8")
        return CLIPTokenizer(str(vocab), str(lines), model_max_length=MAX_TOKENS)
