"""What made a result: versions of this project and of the packages that results depend on most."""

from __future__ import annotations

import platform
import subprocess
from configparser import ConfigParser
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
PROJECT = "prolificdreamer-lightning"
PACKAGES = ("torch", "lightning", "diffusers", "transformers", "peft")


@cache
def versions() -> dict[str, str]:
    """By package, with Python's own and, where there is a repository, the commit."""
    found = {PROJECT: _own()} | {package: _installed(package) for package in PACKAGES}
    commit = _commit()
    return found | {"python": platform.python_version()} | ({} if commit is None else {"commit": commit})


def _own() -> str:
    parser = ConfigParser()
    parser.read(REPOSITORY / "setup.cfg", encoding="utf-8")  # absent where the project is installed
    return parser.get("metadata", "version", fallback=None) or _installed(PROJECT)


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str | None:
    if not (REPOSITORY / ".git").exists():
        return None
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git here, or a repository that isn't ours to read
        return None
