"""Files that are whole or not there: an interruption leaves no half of one under its name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from files.disk import disk_error


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name beside ``path`` to write to, in a folder that is made; it becomes ``path`` when the block has ended.

    After an error nothing is left of it, and what ``path`` held before stays.

    Raises:
        OSError: the disk is full or cannot be written to, in whatever words the writer says so; it names ``path``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except Exception as error:
        reason = disk_error(error)
        if reason is None:
            raise
        raise OSError(reason.errno, reason.strerror, str(path)) from error
    finally:
        unfinished.unlink(missing_ok=True)
