"""The protocol of an executor, which runs programs on nodes: as processes (`process_executor.py`), or another way.

A new one is a module beside that, with a class like `Executor`. `server.py` makes it, `__main__.py` has the
option `--executor`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fair_server.buckets import Bucket
from fair_server.nodes import Node


@dataclass(frozen=True)
class PublishedPort:
    """A TCP port of a container and the host's port that leads to it."""

    host: int
    container: int


@dataclass(frozen=True)
class CopiedFile:
    """A file that the container finds at `local_path`; its content lies at `content` until the start is over."""

    local_path: str
    content: Path


@dataclass(frozen=True)
class ProgramSpec:
    """What to run and where. `command` may hold secrets: never log it."""

    program_id: int
    node: Node
    image: str
    command: tuple[str, ...]
    runtime: str  # "docker", "nvidia"
    network: str  # "bridge", "host"
    ports: tuple[PublishedPort, ...]
    files: tuple[CopiedFile, ...]


class RunningProgram(Protocol):
    """A program that was started."""

    async def wait(self) -> int:
        """Returns its exit code (128 + n for signal n) when all of it has ended and its output is in the bucket.

        Its files and ports on the node are free by then.
        """
        ...

    async def stop(self, grace_s: float) -> None:
        """Asks it and its children to end, kills them after `grace_s`, and returns when they have ended.

        Raises:
            TimeoutError: they do not end although they were killed.
        """
        ...


class Executor(Protocol):
    """A way to run programs on nodes."""

    @property
    def name(self) -> str:
        """As in `--executor`."""
        ...

    def is_ready(self, node: Node) -> bool:
        """Whether the node can be reached now."""
        ...

    async def start(self, spec: ProgramSpec, bucket: Bucket) -> RunningProgram:
        """Starts the program; its input comes from the bucket, its output goes there.

        Raises:
            CannotStart: it did not start; nothing of it is left on the node.
        """
        ...

    async def close(self) -> None:
        """Releases what the executor itself holds. All programs have ended before."""
        ...
