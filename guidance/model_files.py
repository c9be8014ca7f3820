"""Where a frozen model's parts come from: a folder, a hub id or a single file, and what is added to them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Lora:
    """Trained low-rank changes of a model's weights, and how much of them is added."""

    path: str  # a file, a folder or a hub id
    scale: float = 1.0

    @staticmethod
    def read(text: str) -> Lora:
        """``PATH`` or ``PATH:SCALE``.

        >>> Lora.read("style.safetensors:0.5")
        Lora(path='style.safetensors', scale=0.5)
        """
        path, colon, scale = text.rpartition(":")
        try:
            return Lora(path, float(scale)) if colon and path else Lora(text)
        except ValueError:  # a colon of the path, as of a drive
            return Lora(text)

    @property
    def written(self) -> str:
        """As ``read`` takes it."""
        return self.path if self.scale == 1 else f"{self.path}:{self.scale!r}"


@dataclass(frozen=True)
class ModelFiles:
    """A frozen model as it is named.

    A single file holds weights alone. How large its networks are, its noise levels and tokenizers come from ``config``.
    """

    path: Path | str  # a folder in diffusers' format or a single file, if a Path; else a hub id
    revision: str | None = None  # of a hub id: a branch, a tag or a commit
    config: Path | str | None = None  # of a single file: a folder in diffusers' format, or a hub id
    loras: tuple[Lora, ...] = ()
    embeddings: tuple[Path, ...] = ()  # textual inversions

    @staticmethod
    def at(path_or_id: Path | str | ModelFiles) -> ModelFiles:
        """The same with a path that exists as a Path, whatever it looks like, so that none is taken for a hub id."""
        given = path_or_id if isinstance(path_or_id, ModelFiles) else ModelFiles(path_or_id)
        config = None if given.config is None else _found(given.config)
        loras = tuple(replace(lora, path=str(_found(lora.path))) for lora in given.loras)
        return replace(given, path=_found(given.path), config=config, loras=loras)

    @property
    def file(self) -> Path | None:
        """The single file, if it is one."""
        return self.path if isinstance(self.path, Path) and self.path.is_file() else None

    @property
    def place(self) -> Path | str:
        """The folder or hub id with the configurations of all parts."""
        if self.file is None:
            return self.path
        assert self.config is not None, "a single file's configuration is found before its parts are loaded"
        return self.config

    @property
    def folder(self) -> Path | None:
        """The place, if it is a folder."""
        return self.place if isinstance(self.place, Path) else None

    def __str__(self) -> str:
        return str(self.path)


def _found(path: Path | str) -> Path | str:
    expanded = Path(path).expanduser()
    return expanded if expanded.exists() else path
