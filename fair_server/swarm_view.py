"""What the swarm's manager knows, looked at again and again: its nodes, and the task of each service."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fair_server.nodes import Node
from fair_server.swarm_api import SwarmApi, SwarmError

_CALM_S, _HURRIED_S = 0.5, 0.1  # between two looks; the second while somebody waits for a start or an end
_STALE_S = 10.0  # a manager that has not answered for so long cannot vouch for its nodes
_OVER = {"complete", "failed", "rejected", "shutdown", "orphaned", "remove"}
_NO_EXIT_CODE = 255  # Docker's own for a container that it lost
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A service's one task. `error`: the engine's words, why it waits or failed; `at`: since when its state is so."""

    id: str
    state: str
    error: str
    exit_code: int | None
    at: datetime
    created_at: datetime
    has_container: bool

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or never will begin."""
        return self.state in _OVER

    @property
    def has_run(self) -> bool:
        """Whether its program began, as opposed to an image, a port or an executable that was not there."""
        if self.state in ("running", "complete"):
            return True
        return self.has_container and self.is_over and (not self.error or "non-zero exit" in self.error)

    @property
    def end_code(self) -> int:
        """Its exit code, once it is over."""
        if self.exit_code is None or self.exit_code < 0:
            return 0 if self.state == "complete" else _NO_EXIT_CODE
        return self.exit_code


def read_task(row: Mapping[str, Any]) -> Task:
    """Reads a task as the manager tells it."""
    status = row["Status"]
    container = status.get("ContainerStatus") or {}
    return Task(
        id=row["ID"],
        state=status["State"],
        error=" ".join(str(status.get("Err") or "").split()),
        exit_code=container.get("ExitCode"),
        at=_moment(status["Timestamp"]),
        created_at=_moment(row["CreatedAt"]),
        has_container=bool(container.get("ContainerID")),
    )


class SwarmView:
    """A picture of the swarm that is at most half a second old while its manager answers."""

    def __init__(self, api: SwarmApi) -> None:
        self._api = api
        self._nodes: list[dict[str, Any]] = []
        self._tasks: dict[str, Task] = {}  # by service
        self._hurried = 0
        self._looked_at = 0.0
        self._changed = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Looks once, and from then on by itself. Raises: SwarmError."""
        await self.look()
        self._looking = asyncio.create_task(self._look_on(), name="swarm")

    async def close(self) -> None:
        """Looks no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def look(self) -> None:
        """Looks now. Raises: SwarmError."""
        nodes, rows = await asyncio.gather(self._api.nodes(), self._api.tasks())
        tasks: dict[str, Task] = {}
        for row in sorted(rows, key=lambda row: str(row["CreatedAt"])):
            if service := row.get("ServiceID"):
                tasks[service] = read_task(row)  # the youngest
        self._nodes, self._tasks = nodes, tasks
        self._looked_at = time.monotonic()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def next_look(self) -> None:
        """Returns after the next look that succeeds."""
        await self._changed.wait()

    @contextlib.contextmanager
    def hurry(self) -> Iterator[None]:
        """Looks more often for as long as somebody waits."""
        self._hurried += 1
        try:
            yield
        finally:
            self._hurried -= 1

    def task(self, service_id: str) -> Task | None:
        """The service's task, as last seen."""
        return self._tasks.get(service_id)

    def node(self, node: Node) -> dict[str, Any] | None:
        """The swarm's node: by its id or host name, or `manager`; of several the one that is ready.

        A machine that has left the swarm and joined it again is in it twice.
        """
        name = node.swarm_node or node.name
        found = [row for row in self._nodes if name in (row["ID"], (row.get("Description") or {}).get("Hostname"))]
        if name == "manager" and not found:
            found = [row for row in self._nodes if row["Spec"].get("Role") == "manager"]
        return next((row for row in found if _is_ready(row)), found[0] if found else None)

    def is_ready(self, node: Node) -> bool:
        """Whether the manager hears the node and may use it: it is not off, not paused, not drained."""
        row = self.node(node)
        return row is not None and _is_ready(row) and self._is_fresh()

    def is_heard(self, node: Node) -> bool:
        """Whether the manager hears the node, paused or drained as it may be."""
        row = self.node(node)
        return row is not None and row["Status"]["State"] == "ready" and self._is_fresh()

    def is_drained(self, node: Node) -> bool:
        """Whether the node is to be empty."""
        row = self.node(node)
        return row is not None and row["Spec"].get("Availability") == "drain" and self._is_fresh()

    def why_not_ready(self, node: Node) -> str:
        """What the manager says of a node that is not ready."""
        row = self.node(node)
        if row is None:
            return "the swarm has no node of that id or host name"
        if not self._is_fresh():
            return "the swarm's manager does not answer"
        status = row["Status"]
        return f"{status['State']}, availability {row['Spec'].get('Availability')} {status.get('Message', '')}".strip()

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._looked_at < _STALE_S

    async def _look_on(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(_HURRIED_S if self._hurried else _CALM_S)
            try:
                await self.look()
            except SwarmError as exc:
                if not failing:
                    _LOG.warning("The swarm cannot be looked at just now: %s", exc)
                failing = True
            else:
                failing = False


def _is_ready(row: Mapping[str, Any]) -> bool:
    return bool(row["Status"]["State"] == "ready" and row["Spec"].get("Availability") == "active")


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
