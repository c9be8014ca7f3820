"""The ranges of setup.cfg, and the two sets of exact versions that the tests run with."""

from __future__ import annotations

from configparser import ConfigParser

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.repository import REPOSITORY


def ranges() -> dict[str, SpecifierSet]:
    """What setup.cfg allows, by package; the packages for tests too."""
    parser = ConfigParser()
    parser.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    lists = [parser["options"]["install_requires"], *parser["options.extras_require"].values()]
    lines = [line for text in lists for line in text.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(each.name): each.specifier for each in map(Requirement, lines)}


def pins(name: str) -> dict[str, Version]:
    """The exact versions of a file of constraints."""
    lines = (REPOSITORY / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(package): Version(version) for package, version in pairs}


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-oldest.txt"])
def test_every_requirement_has_an_exact_version_within_its_range(name: str) -> None:
    exact = pins(name)
    outside = [
        package for package, allowed in ranges().items() if package not in exact or exact[package] not in allowed
    ]
    assert outside == []


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    exact = pins("constraints-oldest.txt")
    for package, allowed in ranges().items():
        assert [Version(each.version) for each in allowed if each.operator == ">="] == [exact[package]], package
