"""Processes as the kernel lists them in /proc: who started whom, and with which words."""

from collections import defaultdict
from pathlib import Path


def argv(pid: int) -> tuple[str, ...]:
    """The command line of a process, empty when it is gone."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ()
    return tuple(raw.decode(errors="replace").split("\0")[:-1])


def children(pid: int) -> list[int]:
    """The processes whose parent is `pid`."""
    return _by_parent()[pid]


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, nearest first."""
    by_parent = _by_parent()
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = by_parent[waiting.pop(0)]
        found += below
        waiting += below
    return found


def _by_parent() -> dict[int, list[int]]:
    by_parent: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            status = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        by_parent[int(status.rpartition(")")[2].split()[1])].append(int(entry.name))
    return by_parent


def mentioning(text: str) -> dict[int, tuple[str, ...]]:
    """Command lines of the living processes that have `text` in their command line or environment, by process id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            said = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:  # gone, or another user's
            continue
        if text.encode() in said:
            found[int(entry.name)] = argv(int(entry.name))
    return found
