"""Checksums kept beside weights, so that a damaged file is named instead of loaded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

CHECKSUM_FILE = "checksums.json"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):  # in pieces: weights can be larger than memory
            digest.update(piece)
    return digest.hexdigest()


def write_checksums(folder: Path) -> None:
    """Write ``checksums.json`` for every file below ``folder`` that a loader reads (no prose)."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".md" and p.name != CHECKSUM_FILE)
    table = {str(path.relative_to(folder)): _sha256(path) for path in files}
    (folder / CHECKSUM_FILE).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def verify_checksums(folder: Path) -> None:
    """Compare the files of a folder with its ``checksums.json``; a folder without one passes.

    Raises:
        FileNotFoundError: a listed file, or the folder, is missing.
        ValueError: a file is truncated or was altered.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; the bundled weights come with the repository")
    listing = folder / CHECKSUM_FILE
    if not listing.exists():
        return
    for name, expected in json.loads(listing.read_text(encoding="utf-8")).items():
        path = folder / name
        remedy = f"restore it with `git checkout -- {path}`"
        if not path.exists():
            raise FileNotFoundError(f"{path}: missing, though {listing} lists it; {remedy}")
        if _sha256(path) != expected:
            raise ValueError(
                f"{path}: {path.stat().st_size} bytes that differ from those {listing} was written for "
                f"(truncated or altered); {remedy}"
            )
