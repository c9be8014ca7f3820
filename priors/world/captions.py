"""The grammar of captions, and the pairs of class and colour that no training ever sees.

    caption  = "" | [medium] article [pattern] [colour] class ["," view "view"]
    medium   = "a picture of" | "a photo of" | "a render of"

Every slot may be left out, so that the model learns what a short prompt leaves open; the empty
caption is what classifier-free guidance pushes away from.
"""

from __future__ import annotations

import itertools
import json
import math
from functools import cache
from pathlib import Path

import numpy as np

from priors.world.appearance import COLORS, PATTERNS
from priors.world.classes import CLASSES
from renderers.config import VIEW_WORDS

HELD_OUT_FILE = Path(__file__).with_name("held_out.json")
#: What a caption says of a picture, and the words for it.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "class": tuple(CLASSES),
    "color": tuple(COLORS),
    "pattern": PATTERNS,
    "view": VIEW_WORDS,
}
MEDIA = ("picture", "photo", "render")
EMPTY_SHARE = 0.1  # of all captions
COLOR_NAMED = VIEW_NAMED = 0.85  # of the others that name the colour, and the view
PATTERN_NAMED = (0.25, 0.75)  # that name the pattern where it is plain, and where it isn't
MEDIUM_NAMED = 0.1


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
    if rng.random() < EMPTY_SHARE:
        return ""
    name_pattern = rng.random() < PATTERN_NAMED[pattern != "plain"]
    return compose(
        class_name,
        color if rng.random() < COLOR_NAMED else None,
        pattern if name_pattern else None,
        view if rng.random() < VIEW_NAMED else None,
        str(rng.choice(MEDIA)) if rng.random() < MEDIUM_NAMED else None,
    )


def all_captions(class_name: str, color: str, pattern: str, view: str) -> list[tuple[str, float]]:
    """Every caption that ``sample_caption`` draws, with its probability; always as many, in one order."""

    def slot(value: str, share: float) -> list[tuple[str | None, float]]:
        return [(value, share), (None, 1 - share)]

    media = [(medium, MEDIUM_NAMED / len(MEDIA)) for medium in MEDIA]
    slots = (
        slot(color, COLOR_NAMED),
        slot(pattern, PATTERN_NAMED[pattern != "plain"]),
        slot(view, VIEW_NAMED),
        [*media, (None, 1 - MEDIUM_NAMED)],
    )
    captions = [("", EMPTY_SHARE)]
    for choice in itertools.product(*slots):
        words = [word for word, _ in choice]
        captions.append((compose(class_name, *words), (1 - EMPTY_SHARE) * math.prod(share for _, share in choice)))
    return captions


def vocabulary() -> list[str]:
    """Every word and mark that a caption can contain, sorted."""
    words = {"a", "an", "of", "view", ",", *MEDIA, *PATTERNS, *COLORS, *CLASSES, *VIEW_WORDS}
    return sorted(words)


@cache
def held_out_pairs() -> frozenset[tuple[str, str]]:
    """(class, colour) pairs kept out of all training: one in ten, listed in ``held_out.json``."""
    return frozenset((name, color) for name, color in json.loads(HELD_OUT_FILE.read_text(encoding="utf-8")))
