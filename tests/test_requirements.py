"""The requirements files: exact versions, the same in all of them. What a Space needs is in test_space_check.py."""

import re

import pytest

from tests.support.processes import REPOSITORY

REQUIREMENTS = (
    "requirements.txt",
    "inference_server/requirements.txt",
    "fair_server/requirements.txt",
    "fair_server/requirements-swarm.txt",
)


def pins(file: str) -> dict[str, str]:
    """Returns the version of every package that a requirements file names; fails on one without an exact version."""
    lines = (line.partition("#")[0].strip() for line in (REPOSITORY / file).read_text().splitlines())
    found = {}
    for line in lines:
        if line and not line.startswith("-r "):
            match = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?==([\w.]+)(?:\s*;.*)?", line)
            assert match, f"{file} does not pin an exact version in: {line}"
            found[match.group(1).lower().replace("_", "-")] = match.group(2)
    return found


@pytest.mark.parametrize("file", [*REQUIREMENTS, "tests/requirements.txt"])
def test_every_requirement_is_pinned(file: str) -> None:
    """A requirements file names an exact version of each package."""
    assert pins(file)


def test_shared_requirements_agree() -> None:
    """A package that several parts need has the same version in all of them, since they share an environment."""
    versions: dict[str, set[str]] = {}
    for file in REQUIREMENTS:
        for package, version in pins(file).items():
            versions.setdefault(package, set()).add(version)
    assert {package: found for package, found in versions.items() if len(found) > 1} == {}
