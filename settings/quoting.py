"""How messages name a text that a user gave."""

from __future__ import annotations

import textwrap
from typing import Any

LONGEST = 100  # characters of a text that are shown


def quoted(value: Any) -> str:
    """A value as Python writes it; of a long text the beginning, so that a message says more than the text.

    >>> quoted("a red mug"), quoted("word " * 50)[-12:]
    ("'a red mug'", "word [...]'")
    """
    if isinstance(value, str) and len(value) > LONGEST:
        beginning = textwrap.shorten(value, LONGEST)
        return repr(beginning if beginning != "[...]" else f"{value[:LONGEST]}[...]")
    return repr(value)
