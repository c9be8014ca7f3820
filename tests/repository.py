"""The files of the repository, for tests that read or build it."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@cache
def repository_files() -> tuple[Path, ...]:
    """What git tracks or would add, relative to the repository; it skips the test where there is no clone."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("needs a clone of the repository", allow_module_level=True)
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    paths = (Path(name) for name in listing.split("\0") if name)
    return tuple(sorted(path for path in paths if (REPOSITORY / path).is_file()))
