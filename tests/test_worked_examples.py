"""The examples of docs/architecture.md stay true: each diff applies to the code as it is, edits no more existing files
than the page says, is well formatted, and what it adds works (``tests/worked_examples/``).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "architecture.md"
LARGE = 1_000_000  # bytes; such files are linked into the copy


@dataclass(frozen=True)
class Bounds:
    """How much an example may take."""

    edited: int  # existing files
    added_to_edited: int = 20  # lines in them


BOUNDS = {
    "Adding a loss": Bounds(edited=1),
    "Adding a family of models": Bounds(edited=1, added_to_edited=1),
    "Adding a representation": Bounds(edited=2),
    "Adding a stage that goes on from another": Bounds(edited=3),
    "Adding an option": Bounds(edited=2),
}
CHECKS = {
    "Adding a loss": "loss.py",
    "Adding a family of models": "family.py",
    "Adding a representation": "representation.py",
    "Adding a stage that goes on from another": "stage.py",
    "Adding an option": "option.py",
}


@dataclass(frozen=True)
class Example:
    """A section of the page."""

    diff: str
    commands: list[str]

    @property
    def parts(self) -> dict[str, str]:
        """The changes of each file, those of new ones under the name ``/dev/null:NAME``."""
        found = re.split(r"^--- (?:a/)?(\S+)\n\+\+\+ b/(\S+)\n", self.diff, flags=re.MULTILINE)[1:]
        return {
            (old if old != "/dev/null" else f"{old}:{new}"): hunks
            for old, new, hunks in zip(found[::3], found[1::3], found[2::3], strict=True)
        }

    @property
    def edited(self) -> list[str]:
        """Existing files that the diff changes."""
        return [name for name in self.parts if not name.startswith("/dev/null")]


def examples() -> dict[str, Example]:
    """The sections "Adding ...": a block of diff, and one of commands that use what was added."""
    found = {}
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE):
        title = section.splitlines()[0]
        if title.startswith("Adding "):
            (diff,), (commands,) = (
                re.findall(rf"^```{kind}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL) for kind in ("diff", "sh")
            )
            found[title] = Example(diff, commands.splitlines())
    return found


@pytest.fixture(params=BOUNDS)
def title(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def example(title: str) -> Example:
    return examples()[title]


@pytest.fixture
def copy(example: Example, tmp_path: Path) -> Path:
    """A copy of the repository with the example applied."""
    listed = run(REPOSITORY, "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    folder = tmp_path / "repository"
    for name in filter(None, listed.split("\0")):
        source, target = REPOSITORY / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.stat().st_size > LARGE:
                target.symlink_to(source)
            else:
                shutil.copy(source, target)
    run(folder, "git", "init", "--quiet")  # otherwise a repository around the temporary folder would count
    run(folder, "git", "apply", "--whitespace=error", "-", input=example.diff)
    return folder


def run(folder: Path, *command: str, **options: str) -> str:
    """The output of a command, which must succeed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PYTEST_"))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_page_has_these_examples() -> None:
    assert examples().keys() == BOUNDS.keys() == CHECKS.keys()


@pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="needs a git checkout")
def test_an_example_applies_and_edits_few_files(title: str, example: Example, copy: Path) -> None:
    bounds, edited = BOUNDS[title], example.edited
    assert 1 <= len(edited) <= bounds.edited
    assert all((REPOSITORY / name).is_file() for name in edited)
    added = [line for name in edited for line in example.parts[name].splitlines() if line.startswith("+")]
    assert len(added) <= bounds.added_to_edited
    run(copy, sys.executable, "-m", "ruff", "check", ".")
    run(copy, sys.executable, "-m", "ruff", "format", "--check", ".")


@pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="needs a git checkout")
def test_the_table_names_the_files_that_are_edited(title: str, example: Example) -> None:
    anchor = title.lower().replace(" ", "-")
    (row,) = re.findall(rf"^\| \[[^]]*\]\(#{anchor}\) \|(.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    edited, new = row.split("|")[:2]
    assert int(re.search(r"\d+", edited)[0]) == len(example.edited)
    assert int((re.search(r"\d+", new) or "0")[0]) == len(example.parts) - len(example.edited)
    named = re.findall(r"`([^`]+)`", edited)
    assert not named or set(named) == set(example.edited)


@pytest.mark.slow
@pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="needs a git checkout")
def test_what_an_example_adds_works(title: str, example: Example, copy: Path) -> None:
    """Its own checks, the test of layers, and the keys and files of its commands."""
    checks = f"tests/worked_examples/{CHECKS[title]}"
    run(copy, sys.executable, "-m", "pytest", "--numprocesses", "0", "tests/test_imports.py", checks)
    for command in example.commands:
        python, program, *arguments = shlex.split(command, comments=True)
        assert (python, program) == ("python", "launch.py")
        if "--config" in arguments:
            assert (copy / arguments[arguments.index("--config") + 1]).is_file()
        keys = [argument.partition("=")[0] for argument in arguments if "=" in argument]
        for key in [*keys, *(arguments[-1:] if "--help" in arguments else [])]:
            key = {"from": "source", "prior": "prior.path"}.get(key, key)
            assert run(copy, sys.executable, "launch.py", "--help", key).startswith(f"{key} = ")
