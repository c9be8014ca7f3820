"""Folders of runs: ``<output.folder>/<name>/<slug of the prompt>/<run>/``.

A run's folder holds ``config.yaml``, the resolved configuration under one comment for each start (time,
command line, versions), and ``checkpoints/*.ckpt``. A folder that exists is never written into, unless
its run is resumed.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from configs.errors import ConfigError
from configs.load import to_yaml
from configs.schema import RunConfig
from files.whole_files import whole_file
from runs.processes import is_first_process, needs_a_name, share_folder, shared_folder, slurm_run_name, was_requeued
from runs.program import program
from systems.layout import CONFIG_FILE
from systems.versions import versions

START = r"^# (\d{4}-\d\d-\d\dT[\d:]+) "  # the comment on a start, with its local time
SLUG_LENGTH = 60  # characters, without the hash


def slug(prompt: str) -> str:
    """A folder name for a prompt: lower-case ASCII, at most 60 characters.

    Where the prompt cannot be read back from it, ``_`` and a hash follow, so that two prompts never share
    a folder.

    >>> slug("a red mug"), slug("A red mug")
    ('a-red-mug', 'a-red-mug_d5d16ddd')
    """
    ascii_text = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")
    short = name[:SLUG_LENGTH].rstrip("-")
    if short.replace("-", " ") == prompt:
        return short
    return f"{short or 'prompt'}_{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"


def prompt_folder(config: RunConfig) -> Path:
    """Where all runs of a configuration and prompt lie."""
    return Path(config.output.folder).expanduser() / config.name / slug(config.prompt)


def requeued_folder(config: RunConfig, arguments: Sequence[str]) -> Path | None:
    """The folder that the same command made when its SLURM job was started before; None where there is none."""
    name = config.output.run or slurm_run_name(arguments)
    if not was_requeued() or name is None:
        return None
    folder = prompt_folder(config) / name
    return folder if (folder / CONFIG_FILE).is_file() or stage_folders(folder) else None


def create_run_folder(config: RunConfig, arguments: Sequence[str] = ()) -> Path:
    """A new, empty folder for a run, named as the configuration says, by the SLURM job, or by date and time.

    Every other process of the same run gets the first one's folder.

    Args:
        arguments: of the command line, which tell the runs of a SLURM job apart.

    Raises:
        ConfigError: the named run exists, the folder cannot be made, or the processes cannot agree on one.
    """
    parent, name = prompt_folder(config), config.output.run or slurm_run_name(arguments)
    is_first = is_first_process()
    shared = None if is_first else shared_folder()
    if shared is not None:
        return shared
    if name is None and needs_a_name(config.trainer):
        raise ConfigError(
            "output.run: the processes that the launcher has started cannot agree on a date; "
            "name the run: output.run=NAME"
        )
    if not is_first:
        return parent / str(name)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        if name is None:
            folder = _create_dated(parent)
        else:
            folder = parent / name
            folder.mkdir()
    except FileExistsError as error:
        if name is None or not (parent / name).exists():
            raise _unwritable(parent, error) from error
        raise ConfigError(
            f"output.run: {name!r} exists already in {parent}; choose another name, or go on with it: "
            f"--resume {shlex.quote(str(parent / name))}"
        ) from error
    except OSError as error:
        raise _unwritable(parent, error) from error
    share_folder(folder)
    return folder


def _create_dated(parent: Path) -> Path:
    stem, count = datetime.now().strftime("%Y-%m-%d_%H-%M-%S"), 1
    while True:
        folder = parent / (stem if count == 1 else f"{stem}-{count}")
        try:
            folder.mkdir()  # and not a look first, after which another process might make it
            return folder
        except FileExistsError:
            count += 1


def _unwritable(place: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"output.folder: cannot write to {place} ({error.strerror or error}); "
        "free that place, or choose another: output.folder=PATH"
    )


def discard_if_unused(folder: Path) -> None:
    """Remove the folder of a run or a pipeline that holds nothing but configurations, and the empty ones around it."""
    content = sorted(folder.rglob("*"), reverse=True)  # what lies in a folder before the folder itself
    if {path.name for path in content if path.is_file()} <= {CONFIG_FILE}:
        for path in content:
            path.unlink() if path.is_file() else path.rmdir()
        for empty in (folder, folder.parent, folder.parent.parent):  # the run, the prompt, the configuration
            if any(empty.iterdir()):
                return
            empty.rmdir()


def write_config(config: RunConfig, folder: Path, arguments: Sequence[str]) -> None:
    """Write ``config.yaml`` in one step, under a comment on this start and those on earlier ones.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    path = folder / CONFIG_FILE
    try:
        earlier = path.read_text(encoding="utf-8") if path.exists() else ""
        comments = [line for line in earlier.splitlines() if line.startswith("#")]
        command = _printable(shlex.join([*program().split(), *arguments]))
        comments += [
            f"# {datetime.now().isoformat(timespec='seconds')} {command}",
            "#   " + ", ".join(f"{name} {number}" for name, number in versions().items()),
        ]
        with whole_file(path) as unfinished:
            unfinished.write_text("\n".join([*comments, to_yaml(config)]), encoding="utf-8")
    except OSError as error:
        raise _unwritable(folder, error) from error


def _printable(text: str) -> str:
    """One line that YAML takes as a comment."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def last_start(folder: Path) -> str:
    """When a run was started or resumed last, by its ``config.yaml``; "" where that is unknown."""
    path = folder / CONFIG_FILE
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return max(re.findall(START, text, re.MULTILINE), default="")


def stage_folders(top: Path) -> list[Path]:
    """The stages' runs of a pipeline's folder, in their order; empty where the folder isn't a pipeline's."""
    return sorted(path.parent for path in top.glob(f"[0-9]-*/{CONFIG_FILE}"))
