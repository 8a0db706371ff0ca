"""Nodes, containers and programs as Fair knows them: plain values, nothing here talks to anybody."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LAST_LINES, LAST_CHARS = 6, 800
# What Rust's panics (the tunnel's program) print after their reason.
_BACKTRACE = re.compile(r"\d+: \S|at \S+:\d+|(stack )?backtrace:|note: (some details|run with)", re.IGNORECASE)


@dataclass(frozen=True)
class Node:
    """A machine that runs containers. `host_address`, `status`: None where Fair does not tell it."""

    name: str
    id: str
    host_address: str | None
    status: str | None = None

    @property
    def away(self) -> bool:
        """Whether Fair says that it does not reach the machine; a word of another Fair's says nothing to us."""
        return self.status == "unreachable"


@dataclass(frozen=True)
class ContainerSpec:
    """What to run. `files`: absolute path in the container -> text (may hold secrets). `ports`: (host, container)."""

    image: str
    command: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    ports: Sequence[tuple[int, int]] = ()
    runtime: str = "docker"
    network: str = "bridge"
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """A launched program: where it runs and how to ask for it."""

    node: str
    id: int
    bucket_id: int


@dataclass(frozen=True)
class ProgramEnd:
    """How a program ended. `exit_code`: None when Fair does not tell; `last_words`: the last lines of its stderr."""

    exit_code: int | None
    last_words: str

    def __str__(self) -> str:
        code = "without an exit code" if self.exit_code is None else f"with exit code {self.exit_code}"
        return f"it ended {code}, its last words: {self.last_words or '(none)'}"


def last_words(stderr: str) -> str:
    """The last lines of an output that tell something, `LAST_CHARS` characters at most."""
    lines = [line.strip() for line in stderr.splitlines()]
    telling = [line for line in lines if line and not _BACKTRACE.match(line)]
    return " | ".join(telling[-LAST_LINES:])[-LAST_CHARS:]


@dataclass(frozen=True)
class Container:
    """A row of the list of containers. `status`: `starting`, `running`, `ended` or `unreachable`.

    `generation`: of the process that started it, see `fair_api/generation.py`; `created_at`: by Fair's clock.
    """

    id: str
    image: str
    status: str
    role: str | None = None
    deployment: str | None = None
    fingerprint: str | None = None
    generation: str | None = None
    created_at: str | None = None
    exit_code: int | None = None

    def is_newer_than(self, generation: str) -> bool:
        """Whether a process of a later generation started it; where no label tells, when it was started counts."""
        return (self.generation or self.created_at or "") > generation

    @property
    def alive(self) -> bool:
        """Whether it runs or is about to."""
        return self.status in ("starting", "running")
