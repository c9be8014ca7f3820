"""The docs and the repository's own settings agree with what is there: links, files, modules, commands, versions."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from configs.fields import field_types, type_of
from configs.schema import STAGES, RunConfig
from configs.sources import ALIASES

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
CURRENT_PAGES = [page for page in PAGES if page.name != "CHANGELOG.md"]  # that one names what is gone
README = REPOSITORY / "README.md"

LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE_FILE = re.compile(r"`([A-Za-z_.][\w./-]*/[\w.-]+\.(?:py|yaml|json|md|png))`")
CODE = re.compile(r"^```sh\n(.*?)^```$|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
MODULE = re.compile(r"python3? -m ([\w.]+)")
FIELD = re.compile(r"[a-z_]+(?:\.[a-z_]+)*")
EXAMPLES = re.compile(r"^## Adding .*?(?=^## (?!Adding ))", re.MULTILINE | re.DOTALL)  # tests/test_worked_examples.py
CONFIGURATION = re.compile(r"(?<![\w/])configs/[\w-]+\.yaml")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_files_and_modules_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link}: there is no {target}"
        assert not anchor or anchor in anchors(target), f"{link}: {target} has no such heading"
    text = EXAMPLES.sub("", text)  # which add files
    for name in CODE_FILE.findall(text) + CONFIGURATION.findall(text):
        # Output folders of a run are named relative to it.
        if not name.startswith(("outputs/", "logs/", "previews/", "checkpoints/", "3-texture/")):
            assert (REPOSITORY / name).exists(), f"{name}: no such file in the repository"
    for name in MODULE.findall(text):
        assert importlib.util.find_spec(name) is not None, f"python -m {name}: no such module"


def assigned_keys(code: str) -> Iterator[str]:
    """The keys of ``key=value``: all in a command of ``launch.py``, elsewhere the dotted ones."""
    for line in code.replace("\\\n", " ").splitlines():
        for word in shlex.split(line, comments=True):
            key, equals, _ = word.partition("=")
            if equals and FIELD.fullmatch(key) and ("." in key or "launch.py" in line):
                yield key


def fields(page: Path) -> Iterator[str]:
    """The fields that a page sets or names, without those of the worked examples and those of a pipeline's stage."""
    for block, inline in CODE.findall(EXAMPLES.sub("", page.read_text(encoding="utf-8"))):
        names = assigned_keys(block or inline)
        if FIELD.fullmatch(inline) and re.match(rf"({'|'.join(field_types(RunConfig))})\.(?!py$)", inline):
            names = [inline]
        for name in names:
            head, _, rest = name.partition(".")
            yield rest if head in STAGES and rest else ALIASES.get(name, name)


@pytest.mark.parametrize("page", CURRENT_PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_fields_that_a_page_names_are_in_the_schema(page: Path) -> None:
    for name in fields(page):
        type_of(name, page.name)


def test_a_wrong_field_on_a_page_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    commands = "```sh\nlaunch.py seeds=1 geometry.iterations=2\n```\n"
    page.write_text(f"`guidance.scale=3`, `guidance.loss`, `guidance.nothing`, `state=True`, `guidance.py`\n{commands}")
    assert list(fields(page)) == ["guidance.scale", "guidance.loss", "guidance.nothing", "seeds", "iterations"]


def test_the_tests_that_pages_name_exist() -> None:
    there = {
        name
        for file in (REPOSITORY / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    named = {name for page in CURRENT_PAGES for name in re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8"))}
    assert named and named <= there


def test_every_page_is_linked_from_another() -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in LINK.findall(page.read_text(encoding="utf-8"))
    }
    assert {page for page in PAGES if page != README} <= linked


def test_the_readme_is_short_and_has_the_command_that_ci_runs() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    # .ci/run evaluates the first such line.
    assert [line.split()[-1] for line in lines if re.match(r"python3? -m venv .*pytest", line)] == ["pytest"]


def test_pre_commit_and_the_constraints_have_one_version_of_ruff() -> None:
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (repo,) = hooks["repos"]
    constraints = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ruff=={repo['rev'].removeprefix('v')}" in constraints


@pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="needs a git checkout")
def test_no_checkout_changes_a_file_that_has_a_checksum() -> None:
    listings = sorted((REPOSITORY / "priors").rglob("checksums.json"))
    names = [
        (listing.parent / name).relative_to(REPOSITORY).as_posix()
        for listing in listings
        for name in json.loads(listing.read_text(encoding="utf-8"))
    ]
    assert len(listings) >= 2, "the bundled prior and its judge"
    command = ["git", "check-attr", "-z", "text", "--", *names]
    fields = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split("\0")
    converted = [name for name, value in zip(fields[0::3], fields[2::3], strict=False) if value != "unset"]
    assert not converted, f"mark them -text in .gitattributes: {converted}"
