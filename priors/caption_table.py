"""Captions for a training's batches, drawn without a loop in Python."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from priors.world.captions import ATTRIBUTES, MEDIA, all_captions


class CaptionTable:
    """Tokens of every caption of every combination of attributes, about 143,000 rows.

    Args:
        tokenize: captions to rows of token numbers, all of one length.
    """

    def __init__(self, tokenize: Callable[[list[str]], Int[Tensor, "n tokens"]], device: torch.device) -> None:
        choices = [all_captions(*words) for words in itertools.product(*ATTRIBUTES.values())]
        shape = [len(words) for words in ATTRIBUTES.values()]
        different = {caption: i for i, caption in enumerate(dict.fromkeys(c for row in choices for c, _ in row))}
        self.tokens: Int[Tensor, "captions tokens"] = tokenize(list(different)).to(device)
        rows = torch.tensor([[different[caption] for caption, _ in row] for row in choices])
        self.rows: Int[Tensor, "classes colors patterns views choices"] = rows.view(*shape, -1).to(device)
        shares = torch.tensor([[share for _, share in row] for row in choices], dtype=torch.float64).cumsum(dim=-1)
        self.limits: Float[Tensor, "classes colors patterns views choices"] = shares.view(*shape, -1).to(device)

    def draw(self, labels: Int[Tensor, "n attributes"], generator: torch.Generator) -> Int[Tensor, "n tokens"]:
        """A fresh caption for each row of labels, as ``sample_caption`` draws it."""
        return self.tokens_of(labels, self.choose(labels, generator))

    def choose(self, labels: Int[Tensor, "n attributes"], generator: torch.Generator) -> Int[Tensor, "n"]:
        """A number in ``all_captions`` for each row of labels."""
        limits = self.limits[labels.unbind(dim=-1)]
        drawn = torch.rand(len(labels), 1, generator=generator, device=limits.device, dtype=limits.dtype)
        return torch.searchsorted(limits, drawn).squeeze(-1).clamp(max=limits.shape[-1] - 1)

    def tokens_of(self, labels: Int[Tensor, "n attributes"], choice: Int[Tensor, "n"]) -> Int[Tensor, "n tokens"]:
        return self.tokens[self.rows[(*labels.unbind(dim=-1), choice)]]


def with_view(choice: Tensor, named: Tensor) -> Tensor:
    """Numbers in ``all_captions`` of the captions that say the same but name the view, or not. Empty ones stay."""
    media = len(MEDIA) + 1
    place = (choice - 1) // media % 2  # 0: named
    return torch.where(choice == 0, choice, choice + (1 - named.long() - place) * media)
