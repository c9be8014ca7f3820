"""The processes of a run: Lightning starts the others of a machine by the same command."""

from __future__ import annotations

import os
from pathlib import Path

# Lightning gives the other processes a copy of this one's environment.
RUN_FOLDER_VARIABLE = "PROLIFICDREAMER_RUN_FOLDER"


def is_first_process() -> bool:
    """Whether this process is the one that writes."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def share_folder(folder: Path) -> None:
    """Tell the run's folder to the processes that will be started."""
    os.environ[RUN_FOLDER_VARIABLE] = str(folder)


def shared_folder() -> Path | None:
    """The folder that the first process told; None in a process that Lightning didn't start."""
    folder = os.environ.get(RUN_FOLDER_VARIABLE)
    return Path(folder) if folder else None


def agreed_folder(folder: Path) -> Path:
    """The first process's folder, in all processes. Their own may differ: folders are named by date and time."""
    if is_first_process():
        share_folder(folder)
    return shared_folder() or folder
