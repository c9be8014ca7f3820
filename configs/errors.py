"""What counts as a user's mistake, and how it is worded.

A mistake of the user's is shown as one message (what, where, what is allowed, the remedy) and ends the
program with status 2; anything else keeps its traceback, because its reader is a programmer. The border:

1. A ``ConfigError`` is a mistake, whenever it is raised.
2. So is a disk that is full or cannot be written to, at any time.
3. Once the training loop runs nothing else is: whatever fails then passed every check of the set-up.
4. Before that an ``OSError`` is (a missing file, a full disk, no permission), and so is an
   ``ImportError`` (a package that isn't installed).
5. So is a ``ValueError`` that this project's own code raises: the project writes such errors for users.
   One that surfaces from inside a library speaks of things that the user never named.

An ``AssertionError``, a ``TypeError`` or a ``RuntimeError`` is always a bug.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable

from files.disk import DISK_ERRORS

PROJECT = (
    "configs",
    "evaluation",
    "files",
    "guidance",
    "launch",
    "models",
    "priors",
    "renderers",
    "runs",
    "settings",
    "systems",
)
MISTAKES = (ValueError, OSError, ImportError)  # the types that a mistake may have
LOOPS = ("lightning.pytorch.loops", "pytorch_lightning.loops")  # checkpoints are restored before these run


class ConfigError(ValueError):
    """A mistake in the command line, in a configuration file, or in what they point to."""


def is_user_mistake(error: BaseException) -> bool:
    """Whether an error is to be shown without its traceback; the module's docstring draws the border."""
    if isinstance(error, ConfigError):
        return True
    if is_disk_error(error):
        return True
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(module.startswith(LOOPS) for module in modules):
        return False
    if isinstance(error, ValueError):
        return bool(modules) and modules[-1].split(".")[0] in (*PROJECT, "__main__")
    return isinstance(error, (OSError, ImportError))


def is_disk_error(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in DISK_ERRORS


def describe(error: BaseException) -> str:
    """The message that a user reads."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error}; install the project's dependencies: pip install -e . -c constraints.txt"
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}; check that the place exists, has space, and is yours to read and write"
    return str(error) or type(error).__name__


def allowed(word: str, names: Iterable[str]) -> str:
    """The clause that ends an error about an unknown name: the nearest one if any is near, then all.

    >>> allowed("sze", ["size", "views"])
    "did you mean 'size'? allowed: size, views"
    """
    names = sorted(names)
    near = difflib.get_close_matches(word, names, n=1)
    question = f"did you mean {near[0]!r}? " if near else ""
    return f"{question}allowed: {', '.join(names) or 'none'}"
