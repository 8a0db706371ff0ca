"""A plain `git push` to a Space, against a repository whose hook refuses what a Space refuses."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import REPOSITORY
from tests.support.readme import commands

pytestmark = [pytest.mark.slow]
ADDRESS = "https://huggingface.co/spaces/you/draw"
Git = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def space(tmp_path: Path) -> Path:
    """A Space's repository as the browser makes it: with a commit of its own."""
    bare, first = tmp_path / "space.git", tmp_path / "first"
    hook = bare / "hooks" / "pre-receive"
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", str(bare))
    git(bare, "config", "receive.shallowUpdate", "true")  # continuous integration may have a shallow clone
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(first))
    (first / "README.md").write_text("---\ntitle: Draw\nsdk: gradio\n---\n")
    commit(first)
    git(first, "push", "--quiet", str(bare), "main")
    script = shlex.quote(str(REPOSITORY / "tests" / "support" / "space_hook.py"))
    hook.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} {script}\n")
    hook.chmod(0o755)
    return bare


def git(folder: Path, *words: str, fails: bool = False) -> str:
    """What git prints on both streams."""
    ran = subprocess.run(
        ["git", "-c", "safe.directory=*", "-c", "user.name=x", "-c", "user.email=x@x", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=150,
    )
    assert (ran.returncode != 0) == fails, ran.stdout
    return ran.stdout


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=x")


def test_this_repository_is_taken(space: Path, tmp_path: Path) -> None:
    """HEAD, history and all, by the README's own lines; the Space then has the same files."""
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--no-hardlinks", str(REPOSITORY), str(clone))
    printed = [words for words in commands("With plain git") if words[0] == "git"]
    assert len(printed) == 2
    for words in printed:
        git(clone, *(str(space) if word == ADDRESS else word for word in words[1:]))
    assert git(space, "rev-parse", "main^{tree}") == git(REPOSITORY, "rev-parse", "HEAD^{tree}")


@pytest.mark.parametrize(
    ("path", "content", "told"),
    [
        ("picture.png", b"\x89PNG\r\n\x1a\n\0", "picture.png is a binary file"),
        ("model.txt", b"x" * 10_000_001, "model.txt is larger than 10 MB"),
        ("README.md", b"---\ntitle: Draw\nsdk: gradio\ncolorFrom: mauve\n---\n", "colorFrom is no colour"),
    ],
)
def test_what_a_space_refuses(space: Path, tmp_path: Path, path: str, content: bytes, told: str) -> None:
    """The hook of this test is no formality."""
    folder = tmp_path / "other"
    git(tmp_path, "clone", "--quiet", str(space), str(folder))
    (folder / path).write_bytes(content)
    commit(folder)
    assert told in git(folder, "push", "origin", "main", fails=True)
