"""The grammar of captions, and the pairs of class and colour that no training ever sees.

    caption  = "" | [medium] article [pattern] [colour] class ["," view "view"]
    medium   = "a picture of" | "a photo of" | "a render of"

Every slot may be left out, so that the model learns what a short prompt leaves open; the empty
caption is what classifier-free guidance pushes away from.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from priors.world.appearance import COLORS, PATTERNS
from priors.world.classes import CLASSES
from renderers.config import VIEW_WORDS

HELD_OUT_FILE = Path(__file__).with_name("held_out.json")
_MEDIA = ("picture", "photo", "render")


def compose(
    class_name: str | None,
    color: str | None = None,
    pattern: str | None = None,
    view: str | None = None,
    medium: str | None = None,
) -> str:
    """The caption that names exactly the given attributes; ``class_name=None`` gives "".

    >>> compose("mug", "red", "striped", "side")
    'a striped red mug, side view'
    """
    if class_name is None:
        return ""
    words = [word for word in (pattern, color, class_name) if word is not None]
    article = "an" if words[0][0] in "aeiou" else "a"
    text = " ".join([article, *words])
    if medium is not None:
        text = f"a {medium} of {text}"
    return text if view is None else f"{text}, {view} view"


def sample_caption(class_name: str, color: str, pattern: str, view: str, rng: np.random.Generator) -> str:
    """Draw a caption of a picture with these attributes; about one in ten is empty."""
    if rng.random() < 0.1:
        return ""
    name_pattern = rng.random() < (0.25 if pattern == "plain" else 0.75)
    return compose(
        class_name,
        color if rng.random() < 0.85 else None,
        pattern if name_pattern else None,
        view if rng.random() < 0.85 else None,
        str(rng.choice(_MEDIA)) if rng.random() < 0.1 else None,
    )


def vocabulary() -> list[str]:
    """Every word and mark that a caption can contain, sorted."""
    words = {"a", "an", "of", "view", ",", *_MEDIA, *PATTERNS, *COLORS, *CLASSES, *VIEW_WORDS}
    return sorted(words)


@cache
def held_out_pairs() -> frozenset[tuple[str, str]]:
    """(class, colour) pairs kept out of all training: one in ten, listed in ``held_out.json``."""
    return frozenset((name, color) for name, color in json.loads(HELD_OUT_FILE.read_text(encoding="utf-8")))
