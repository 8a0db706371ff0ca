"""What must hold for the files of the repository as a whole."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import REPOSITORY

REQUIREMENTS = ("requirements.txt", "inference_server/requirements.txt", "fair_server/requirements.txt")
MAXIMUM_BYTES = 10_000_000  # a Space refuses a larger file, and every file of binary kind


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


def tracked_files() -> list[Path]:
    """Returns the files that git tracks and that are there."""
    command = ["git", "-c", f"safe.directory={REPOSITORY}", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip(f"this is no git checkout: {listed.stderr.strip()}")
    return [file for name in listed.stdout.split("\0") if name and (file := REPOSITORY / name).is_file()]


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


def test_tracked_files_suit_a_space() -> None:
    """Every tracked file is text (UTF-8 without NUL) and smaller than 10 MB."""
    unsuitable = []
    for file in tracked_files():
        content = file.read_bytes()
        try:
            content.decode()
        except UnicodeDecodeError:
            unsuitable.append(f"{file}: no UTF-8")
        if b"\0" in content:
            unsuitable.append(f"{file}: a NUL byte")
        if len(content) >= MAXIMUM_BYTES:
            unsuitable.append(f"{file}: {len(content)} bytes")
    assert unsuitable == []


def test_card_names_the_pinned_gradio() -> None:
    """The Space's card in README.md has the `sdk_version` that requirements.txt pins for gradio."""
    readme = REPOSITORY / "README.md"
    assert readme.is_file(), "README.md is missing: it holds the Space's card"
    front_matter = re.match(r"---\n(.*?)\n---\n", readme.read_text(), re.DOTALL)
    assert front_matter, "README.md does not start with the Space's card, between two lines of ---"
    version = re.search(r"(?m)^sdk_version:\s*[\"']?([\w.]+)", front_matter.group(1))
    assert version, "the card in README.md has no sdk_version"
    assert version.group(1) == pins("requirements.txt")["gradio"]
