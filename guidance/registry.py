"""How a loss is declared, and ``LOSSES``, the table of the declared ones.

A distillation loss is one function, its baseline, with its declaration above it (``guidance/losses.py``):

    @distillation_loss("name", uses=("unconditional",), texts={"flaws": "blurry, ugly"})
    def name(p: Predictions, config: GuidanceConfig) -> Latents:
        return p["unconditional"] + p["flaws"]

Everything else follows from the declaration: the texts that are embedded, the rows that the network is asked for,
whether an estimator is trained, whether x_t comes from DDIM inversion, and the names that ``guidance.loss`` allows.

This module imports no PyTorch: configurations are checked against ``LOSSES`` before PyTorch is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Float

# Shapes of any array type, so that nobody has to import torch to declare a loss. Predictions of noise have the shape
# of latents.
Latents = Float[Any, "batch channels latent_height latent_width"]
Levels = Float[Any, "batch 1 1 1"]

PROMPT_TEXTS = ("conditional", "unconditional")  # y^c and the negative prompt: every prompt has them


@dataclass(frozen=True)
class Loss:
    """A declared loss: what it reads, and what a step provides for it."""

    name: str
    function: Callable[..., Any]  # (Predictions, GuidanceConfig) -> baseline; of images: features -> loss
    reads: Literal["latents", "images"] = "latents"
    uses: tuple[str, ...] = ()  # "unconditional": the baseline reads it, also at a scale that doesn't
    texts: Mapping[str, str | Callable[[Any], str]] = field(default_factory=dict)  # further texts, or from the config
    inverts: bool = False  # x_t comes from DDIM inversion of x_0 instead of drawn noise
    trains_estimator: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.uses if name not in PROMPT_TEXTS]
        if unknown:
            raise ValueError(f"loss {self.name!r}: uses {', '.join(unknown)}; allowed: {', '.join(PROMPT_TEXTS)}")
        taken = [name for name in self.texts if name in PROMPT_TEXTS]
        if taken:
            raise ValueError(f"loss {self.name!r}: texts: {', '.join(taken)} are names of the prompt's own; rename")

    def further_texts(self, config: Any) -> dict[str, str]:
        """The declared texts by name, for a ``GuidanceConfig``."""
        return {name: text(config) if callable(text) else text for name, text in self.texts.items()}


LOSSES: dict[str, Loss] = {}


def distillation_loss(name: str, **declaration: Any) -> Callable[[Callable], Callable]:
    """Declare the baseline of w(t) (eps_pretrain - baseline) as the loss ``name``; arguments as fields of ``Loss``.

    Raises:
        ValueError: the name is taken, or the declaration contradicts itself.
    """
    return _register(name, "latents", **declaration)


def image_loss(name: str) -> Callable[[Callable], Callable]:
    """Declare a loss of an image-text model's features (image, text, negative text), without noise.

    Raises:
        ValueError: the name is taken.
    """
    return _register(name, "images")


def _register(name: str, reads: Literal["latents", "images"], **declaration: Any) -> Callable[[Callable], Callable]:
    def register(function: Callable) -> Callable:
        if name in LOSSES:
            taken = LOSSES[name].function
            raise ValueError(f"loss {name!r}: already declared by {taken.__module__}.{taken.__name__}; rename one")
        LOSSES[name] = Loss(name, function, reads, **declaration)
        return function

    return register


class Undeclared(LookupError):
    """A baseline reads what its declaration doesn't name."""


@dataclass(frozen=True)
class Predictions:
    """What is known of one x_t, as noise: the argument of a baseline.

    Raises (on reading):
        Undeclared: the loss did not declare what it reads.
    """

    loss: Loss
    guided: Latents  # eps_pretrain(x_t, t, y^c) with classifier-free guidance
    noise: Latents  # eps in x_t = alpha x_0 + sigma eps: drawn, or inferred by inversion
    t: Levels  # noise level as a fraction of the schedule, in [0, 1]
    by_text: Mapping[str, Latents]  # eps_pretrain(x_t, t, text)
    of_estimator: Latents | None = None
    of_inversion: Latents | None = None

    def __getitem__(self, name: str) -> Latents:
        """eps_pretrain(x_t, t, text) without guidance, for "conditional" or a declared text."""
        declared = ("conditional", *self.loss.uses, *self.loss.texts)
        if name not in declared:
            way = f"uses=({name!r},)" if name in PROMPT_TEXTS else f"texts={{{name!r}: ...}}"
            raise self._undeclared(f"p[{name!r}]", f"{way}; it may read {', '.join(declared)}")
        return self.by_text[name]

    @property
    def estimate(self) -> Latents:
        """eps_phi(x_t, t, c, y), the estimator's prediction."""
        if not self.loss.trains_estimator:
            raise self._undeclared("p.estimate", "trains_estimator=True")
        return self.of_estimator

    @property
    def previous(self) -> Latents:
        """eps_pretrain(x_s, s, none) of the inversion's last step, with s < t."""
        if not self.loss.inverts:
            raise self._undeclared("p.previous", "inverts=True")
        return self.of_inversion

    def _undeclared(self, what: str, remedy: str) -> Undeclared:
        return Undeclared(f"loss {self.loss.name!r} reads {what} undeclared; add {remedy} to its @distillation_loss")
