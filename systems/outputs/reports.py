"""The figures of a run as JSON, and what the command line prints of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from files.whole_files import whole_file
from systems.layout import SUMMARY

KINDS = {".mp4": "films", ".png": "pictures"}  # by a file's ending; all others are models


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file of figures, whole or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a finished run."""
    return json.loads((folder / SUMMARY).read_text(encoding="utf-8"))


def training_lines(folder: Path, summary: dict[str, Any]) -> list[str]:
    """How long a finished run took, and its files by kind."""
    files: dict[str, list[str]] = {}
    for name in summary["files"]:
        files.setdefault(KINDS.get(Path(name).suffix, "models"), []).append(name)
    took = f"{summary['iterations']} iterations in {duration(summary['training_seconds'])} of training"
    lines = {"done": took, "results": str(folder), **{kind: ", ".join(names) for kind, names in files.items()}}
    return [f"{name:<8} {text}" for name, text in [*lines.items(), ("summary", SUMMARY)]]


def test_lines(figures: dict[str, Any]) -> list[str]:
    """The figures of ``--mode test``, a line for each particle, and why there is no similarity where there is none."""
    lines = ["particle  similarity  opacity"]
    for number, particle in enumerate(figures["particles"]):
        similarity = "-" if particle["similarity"] is None else f"{particle['similarity']:.3f}"
        lines.append(f"{number:>8}  {similarity:>10}  {particle['opacity']:>7.3f}")
    if "without_similarity" in figures:
        lines.append(f"no similarity: {figures['without_similarity']}")
    return lines


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as far as they are needed.

    >>> duration(7.4), duration(571), duration(7322)
    ('7.4 s', '9 min 31 s', '2 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
