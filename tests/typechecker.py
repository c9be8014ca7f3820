"""The checker of annotations while tests run: beartype, to which a float may be an int, as type checkers have it."""

from __future__ import annotations

from pathlib import Path

from beartype import BeartypeConf, beartype

ROOT = Path(__file__).resolve().parents[1]

COMPILED = ("@numba.njit", "@triton.jit")

check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def modules(*packages: str) -> list[str]:
    """The packages' modules, except those that numba or Triton compile, which cannot hold checks, and callbacks.

    Tests of callbacks give them stand-ins for Lightning's trainer.
    """
    paths = [path for package in packages for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py"]
    paths = [path for path in paths if path.parent.name != "callbacks"]
    checked = [path for path in paths if not any(mark in path.read_text(encoding="utf-8") for mark in COMPILED)]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in checked]
