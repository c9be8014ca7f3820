"""The judge: an image-text model and attribute classifier of the closed world.

It is trained on world pictures alone and never sees the prior or its encoder, so that it can measure
both. A small residual network looks at 64x64 pictures (larger ones are averaged down to that); four
linear heads name class, colour, pattern and view; a projection puts pictures and captions into one
space, trained contrastively as in CLIP (Radford et al. 2021). A caption is the sum of its words'
vectors: additive on purpose, so that a pair of class and colour that was held out of training still has
a meaningful vector.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from files.checksums import verify_checksums, write_checksums
from priors.world.captions import ATTRIBUTES, vocabulary

JUDGE_SIZE = 64  # pixels a side that the network sees
DEFAULT_JUDGE = Path(__file__).with_name("judge")


@dataclass(frozen=True)
class Judgement:
    """What the judge sees in a batch of pictures."""

    logits: dict[str, Float[Tensor, "batch choices"]]  # by attribute
    embedding: Float[Tensor, "batch dim"]  # unit length, comparable with ``Judge.embed_text``
    features: Float[Tensor, "batch width"]  # for Frechet and other distances

    def words(self, attribute: str) -> list[str]:
        """The most likely word for each picture."""
        return [ATTRIBUTES[attribute][i] for i in self.logits[attribute].argmax(dim=-1).tolist()]


class _Block(nn.Module):
    """Two convolutions with a skip; halves the resolution when ``stride`` is 2."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        same = stride == 1 and width_in == width
        self.skip = nn.Identity() if same else nn.Conv2d(width_in, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.skip(x))


class Judge(nn.Module):
    """See the module's docstring. Pictures are in [0, 1]."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 256), embedding_dim: int = 128) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 5, 2, 2)
        self.blocks = nn.Sequential(
            *[
                nn.Sequential(_Block(previous, width, 1 if i == 0 else 2), _Block(width, width, 1))
                for i, (previous, width) in enumerate(zip((widths[0], *widths), widths, strict=False))
            ]
        )
        # The last map keeps a 2x2 layout, because where things are tells a view from another.
        features = widths[-1] * 4
        self.heads = nn.ModuleDict({name: nn.Linear(features, len(words)) for name, words in ATTRIBUTES.items()})
        self.image_projection = nn.Linear(features, embedding_dim)
        self.words = vocabulary()
        self.word_vectors = nn.Embedding(len(self.words), embedding_dim)
        self.log_scale = nn.Parameter(torch.tensor(2.3))

    def forward(self, pictures: Float[Tensor, "batch 3 size size"]) -> Judgement:
        if pictures.shape[-1] > JUDGE_SIZE:
            pictures = F.adaptive_avg_pool2d(pictures, JUDGE_SIZE)
        x = self.blocks(self.stem(pictures * 2 - 1))
        features = F.adaptive_avg_pool2d(x, 2).flatten(1)
        return Judgement(
            logits={name: head(features) for name, head in self.heads.items()},
            embedding=F.normalize(self.image_projection(features), dim=-1),
            features=features,
        )

    def tokenize(self, captions: list[str]) -> Int[Tensor, "batch tokens"]:
        """Numbers of the words, -1 behind the last.

        Raises:
            ValueError: a caption holds a word that the world doesn't have.
        """
        rows = []
        for caption in captions:
            tokens = caption.replace(",", " ,").split()
            unknown = [token for token in tokens if token not in self.words]
            if unknown:
                raise ValueError(
                    f"caption {caption!r}: the judge doesn't know {unknown}; "
                    f"its vocabulary of {len(self.words)} words is priors.world.captions.vocabulary()"
                )
            rows.append(torch.tensor([self.words.index(token) for token in tokens], dtype=torch.long))
        return pad_sequence(rows, batch_first=True, padding_value=-1)

    def embed_tokens(self, tokens: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch dim"]:
        """Unit vectors of captions given as ``tokenize`` gives them."""
        vectors = self.word_vectors(tokens.clamp(min=0)) * (tokens >= 0).unsqueeze(-1)
        return F.normalize(vectors.sum(dim=1), dim=-1)

    def embed_text(self, captions: list[str]) -> Float[Tensor, "batch dim"]:
        """Unit vectors of captions.

        Raises:
            ValueError: a caption holds a word that the world doesn't have, or no word at all.
        """
        if not all(caption.strip() for caption in captions):
            raise ValueError("a caption is empty: the judge needs at least one word")
        return self.embed_tokens(self.tokenize(captions).to(self.word_vectors.weight.device))


def save_judge(judge: Judge, folder: Path, facts: dict[str, float]) -> None:
    """Write weights (fp16), measured facts and checksums."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in judge.state_dict().items()
    }
    save_file(state, folder / "judge.safetensors")
    (folder / "facts.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    write_checksums(folder)


def load_judge(folder: str | Path = DEFAULT_JUDGE) -> Judge:
    """The trained judge in evaluation mode, fp32.

    Raises:
        FileNotFoundError, ValueError: a weight file is missing or was altered; the message names it.
    """
    folder = Path(folder)
    if not (folder / "judge.safetensors").exists() and not (folder / "checksums.json").exists():
        raise FileNotFoundError(
            f"{folder}: holds no judge; train one with `python -m priors.train_judge --out {folder}`"
        )
    verify_checksums(folder)
    judge = Judge()
    state = load_file(folder / "judge.safetensors")
    judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return judge.eval().requires_grad_(False)
