"""The docs and the repository's own settings agree with what is there: links, files, modules, commands, versions."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
README = REPOSITORY / "README.md"

LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE_FILE = re.compile(r"`([A-Za-z_.][\w./-]*/[\w.-]+\.(?:py|yaml|json|md|png))`")
MODULE = re.compile(r"python -m ((?:benchmarks|priors)\.\w+)")
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
    for name in CODE_FILE.findall(text) + CONFIGURATION.findall(text):
        # Output folders of a run are named relative to it.
        if not name.startswith(("outputs/", "logs/", "previews/", "checkpoints/", "3-texture/")):
            assert (REPOSITORY / name).exists(), f"{name}: no such file in the repository"
    for name in MODULE.findall(text):
        assert (REPOSITORY / f"{name.replace('.', '/')}.py").exists(), f"python -m {name}: no such module"


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
