"""The state of one program: the request for it, how far it is, and what the API tells about it."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from fair_server.buckets import Bucket
from fair_server.executor import Ended, RunningProgram
from fair_server.nodes import Node
from fair_server.wire import (
    CommandResult,
    ContainerRow,
    ContainerStatus,
    Outcome,
    ProgramRequest,
    ProgramStatus,
    rfc3339,
)


@dataclass
class Program:
    """A program and its one container, which carries the program's number as its id."""

    id: int
    account: str
    node: Node
    asked_node: str  # the node as the client named it
    request: ProgramRequest
    bucket: Bucket
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    exit_code: int | None = None
    running: RunningProgram | None = None
    starting: bool = False  # the files are there, the executor is at work
    stop_asked: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Task[None] | None = None  # for its files and its node: may be cancelled
    past_start: asyncio.Event = field(default_factory=asyncio.Event)  # it runs, or never will
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, ended: Ended) -> None:
        """Notes its end, for all who wait for it. Its files are gone then, its output stays."""
        self.exit_code = ended.exit_code
        self.ended_at = ended.at
        self.running = None
        self.bucket.close()
        self.past_start.set()
        self.ended.set()

    def status(self, node_is_ready: bool) -> ProgramStatus:
        """Returns how far the commands are; a detached program's are done once its container runs.

        Until then that one is queued: the clients tell their caller of the first status that is another.
        """
        if self.ended_at is not None or (self.started_at is not None and not self.request.waits):
            return ProgramStatus.COMPLETED
        if not node_is_ready:
            return ProgramStatus.NOT_RESPONDING
        if self.started_at is not None or (self.starting and self.request.waits):
            return ProgramStatus.PROCESSING
        return ProgramStatus.QUEUED

    def result(self) -> list[CommandResult]:
        """Returns what each command gave; the last entry holds the exit code if the program waits or failed."""
        entries = [Outcome(container_id=str(self.id)), *[Outcome() for _ in self.request.commands[1:]]]
        if self.request.waits or self.started_at is None:
            entries[-1] = Outcome(exit_code=self.exit_code)
        return [CommandResult(Ok=entry) for entry in entries]

    def row(self, node_is_ready: bool) -> ContainerRow:
        """Returns the container's row."""
        container = self.request.container
        return ContainerRow(
            id=str(self.id),
            image=container.image,
            role=container.labels.role,
            deployment=container.labels.deployment,
            fingerprint=container.labels.fingerprint,
            generation=container.labels.generation,
            status=self._container_status(node_is_ready),
            created_at=rfc3339(self.created_at),
            started_at=rfc3339(self.started_at) if self.started_at else None,
            ended_at=rfc3339(self.ended_at) if self.ended_at else None,
            exit_code=self.exit_code,
        )

    def _container_status(self, node_is_ready: bool) -> ContainerStatus:
        if self.ended_at is not None:
            return ContainerStatus.ENDED
        if not node_is_ready:
            return ContainerStatus.UNREACHABLE
        return ContainerStatus.STARTING if self.started_at is None else ContainerStatus.RUNNING
