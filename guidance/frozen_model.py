"""Frozen models of the guidance: they read texts and take images of one size, and no module owns their weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

Images = Float[Tensor, "batch 3 height width"]


class Unregistered(nn.Module):
    """Holds a module outside the module tree, while moves still reach it.

    Its parameters appear in no state dict, no optimizer and no gradient synchronisation, so
    checkpoints stay small and strict loading speaks of the trained parameters alone. ``train()`` does
    not reach it either: it stays in the mode it was given.
    """

    module: nn.Module

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "module", module)  # plain assignment would register it

    def _apply(self, fn: Callable, recurse: bool = True) -> Unregistered:
        self.module._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


class Frozen(Unregistered):
    """The same for a pretrained module: evaluation mode, no gradients for its parameters."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module.eval().requires_grad_(False))


@dataclass(frozen=True)
class TextEmbeddings:
    """What the network reads of the text, one row a prompt."""

    tokens: Float[Tensor, "batch tokens width"]
    pooled: Float[Tensor, "batch pooled_width"] | None = None  # for families that condition on it
    guidance: Float[Tensor, "batch"] | None = None  # scale that guidance-distilled networks read; 1: none
    c2w: Float[Tensor, "batch 4 4"] | None = None  # cameras, for networks that read them

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, index: slice | Tensor) -> TextEmbeddings:
        return self._map(lambda part: part[index])

    def to(self, device: torch.device | str) -> TextEmbeddings:
        return self._map(lambda part: part.to(device))

    def expand(self, count: int) -> TextEmbeddings:
        """One prompt for a batch of ``count``."""
        assert len(self) == 1, len(self)
        return self[torch.zeros(count, dtype=torch.int64, device=self.tokens.device)]

    def with_guidance(self, scale: float) -> TextEmbeddings:
        """The same texts at another embedded guidance scale; unchanged where the network reads none."""
        return self if self.guidance is None else replace(self, guidance=torch.full_like(self.guidance, scale))

    def seen_from(self, c2w: Float[Tensor, "batch 4 4"]) -> TextEmbeddings:
        """The same texts with the cameras that the network reads."""
        return replace(self, c2w=c2w.to(self.tokens.device, torch.float32))

    @staticmethod
    def concatenate(parts: list[TextEmbeddings]) -> TextEmbeddings:
        """The rows of all parts, which are of one model."""
        columns = zip(*(part.parts() for part in parts), strict=True)
        return TextEmbeddings(*(None if column[0] is None else torch.cat(column) for column in columns))

    def parts(self) -> tuple[Tensor | None, ...]:
        return self.tokens, self.pooled, self.guidance, self.c2w

    def _map(self, change: Callable[[Tensor], Tensor]) -> TextEmbeddings:
        return TextEmbeddings(*(None if part is None else change(part) for part in self.parts()))


class FrozenModel(nn.Module, ABC):
    """A pretrained model that is used and not trained. In the eyes of torch it has no parameters."""

    image_size: int  # pixels a side of the images that it takes
    views_together: int = 1  # views of one object, in a row of the batch, that the model sees at once
    preset: ClassVar[str | None] = None  # of configs/prior: settings that fit the model's family

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where its weights are."""

    @abstractmethod
    def describe(self) -> str:
        """What it is, in a line."""

    @abstractmethod
    def encode_text(self, prompts: list[str]) -> TextEmbeddings:
        """One embedding a prompt; "" stands for no text.

        Raises:
            ValueError: a prompt that the model cannot read, or that is too long.
        """

    @abstractmethod
    def release_text_encoder(self) -> None:
        """Free the memory that only texts need."""
