"""How the program was called, so that messages name commands that can be copied."""

from __future__ import annotations

import sys
from pathlib import Path

INSTALLED = "prolific"  # the command that setup.cfg installs
IN_THE_REPOSITORY = "python launch.py"


def program() -> str:
    """What stands before the arguments on the command line."""
    return INSTALLED if Path(sys.argv[0]).stem == INSTALLED else IN_THE_REPOSITORY
