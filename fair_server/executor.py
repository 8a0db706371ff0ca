"""The protocol of an executor, which runs programs on nodes: as processes (`process_executor.py`) or as the jobs of a
Docker swarm (`swarm_executor.py`).

A new one is a module beside those, with a class like `Executor`. `server.py` makes it, `__main__.py` has the
option `--executor`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from fair_server.buckets import Bucket
from fair_server.errors import CannotStart
from fair_server.nodes import Node

STOP_GRACE_S = 5.0  # from TERM to KILL when a container is deleted


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
    labels: Mapping[str, str]  # what the server wants to know of it again after a restart

    def check_ports(self) -> None:
        """Raises: CannotStart where one host port is published twice."""
        hosts = [port.host for port in self.ports]
        for port in hosts:
            if hosts.count(port) > 1:
                raise CannotStart(f"Host port {port} is published twice by this program: publish it once.")


@dataclass(frozen=True)
class Ended:
    """How a program ended, and when."""

    exit_code: int
    at: datetime


@dataclass(frozen=True)
class Survivor:
    """A program of an earlier run of the server. `stdout`, `stderr`: of one that has ended, what is left of them."""

    program_id: int
    labels: Mapping[str, str]
    started_at: datetime | None
    ended: Ended | None = None
    stdout: bytes = b""
    stderr: bytes = b""


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

    @property
    def ends_programs(self) -> bool:
        """Whether programs end with the server. Where not, the next run of it asks for the `survivors`."""
        ...

    def is_ready(self, node: Node) -> bool:
        """Whether the node can be reached now."""
        ...

    def is_drained(self, node: Node) -> bool:
        """Whether its owner wants nothing to run there, what runs now included."""
        ...

    def host_address(self, node: Node) -> str:
        """Where the node's programs are reached from outside."""
        ...

    async def survivors(self) -> Sequence[Survivor]:
        """Returns the programs of earlier runs of the server, oldest first, those that have ended included."""
        ...

    async def start(self, spec: ProgramSpec, bucket: Bucket, stop_asked: asyncio.Event) -> RunningProgram:
        """Starts the program; its input comes from the bucket, its output goes there.

        Raises:
            CannotStart: it did not start, or `stop_asked` was set before it ran; nothing of it is left on the node.
        """
        ...

    async def attach(self, spec: ProgramSpec, bucket: Bucket, stop_asked: asyncio.Event) -> RunningProgram:
        """The same for a survivor that has not ended: waits until it runs; its whole output goes to the bucket.

        `spec` is without its files: they are there.
        """
        ...

    async def settle(self, ended: Survivor) -> None:
        """Removes what is left of a program that has ended but its record, if one is kept beyond this run."""
        ...

    async def forget(self, program_id: int) -> None:
        """Removes its record."""
        ...

    async def close(self) -> None:
        """Releases what the executor itself holds. Programs that end with the server have ended before."""
        ...
