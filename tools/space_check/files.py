"""The files of a push: which of them the hub refuses, in the working tree and in older commits."""

import subprocess
from pathlib import Path

from tools.space_check.install import CannotTellError

MAXIMUM_BYTES = 10_000_000
_GIT_DEADLINE_S = 120


def tracked_files(root: Path) -> list[Path]:
    """Returns the files that git tracks and that are there.

    Raises: CannotTellError where `root` is no git checkout.
    """
    names = _git(root, "ls-files", "-z").split("\0")
    return [file for name in names if name and (file := root / name).is_file()]


def refused_files(root: Path, tracked: list[Path]) -> list[str]:
    """Returns a fault for every file of binary kind, every one over 10 MB, and those of older commits.

    The hub refuses such files unless they are in LFS, which this project does without. It looks at all commits of a
    push. Source: https://huggingface.co/docs/hub/repositories-getting-started
    """
    faults = []
    for file in tracked:
        name, content = file.relative_to(root), file.read_bytes()
        if not _is_text(content):
            faults.append(f"{name}: a file of binary kind: write it as text (base64 for example), or take it out")
        if len(content) > MAXIMUM_BYTES:
            faults.append(f"{name}: {len(content)} bytes: cut it into parts of at most {MAXIMUM_BYTES}, or take it out")
    if _git(root, "for-each-ref", "--count=1"):
        here = {str(file.relative_to(root)) for file in tracked}
        older = {**_large_in_history(root), **_binary_in_history(root)}
        faults += [
            f"{name}: {what} in an older commit, which a push takes along: make a history without it"
            for name, what in older.items()
            if name not in here
        ]
    return faults


def _is_text(content: bytes) -> bool:
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


def _binary_in_history(root: Path) -> dict[str, str]:
    lines = _git(root, "log", "--format=", "--numstat", "--no-renames", "-z", "HEAD").split("\0")
    return {line.split("\t", 2)[2]: "a file of binary kind" for line in lines if line.startswith("-\t-\t")}


def _large_in_history(root: Path) -> dict[str, str]:
    objects = _git(root, "rev-list", "--objects", "HEAD")
    sizes = _git(root, "cat-file", "--batch-check=%(objecttype) %(objectsize) %(rest)", stdin=objects)
    blobs = [line.split(" ", 2) for line in sizes.splitlines() if line.startswith("blob ")]
    return {name: f"{size} bytes" for _blob, size, name in blobs if int(size) > MAXIMUM_BYTES}


def _git(root: Path, *words: str, stdin: str = "") -> str:
    command = ["git", "-c", f"safe.directory={root.resolve()}", *words]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, input=stdin, timeout=_GIT_DEADLINE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotTellError(f"`git {words[0]}` in {root} did not work: {error}. Is git installed?") from error
    if done.returncode:
        raise CannotTellError(f"`git {words[0]}` in {root} failed: {done.stderr.strip()}. Run this in a git checkout.")
    return done.stdout
