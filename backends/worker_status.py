"""What the owner is told of the workers: who is connected and how, and who was turned away and why."""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from endpoint.worker_connection import VERSION, WorkerConnection
from errors import Absence

_REMEMBERED_S = 600.0
WRONG_KEY = "a wrong key"


class TurnedAway:
    """Why somebody could not connect, for ten minutes after it was last tried."""

    def __init__(self) -> None:
        self._tried_s: dict[str, float] = {}  # why -> when, on the monotonic clock

    def note(self, why: str) -> None:
        self._tried_s[why] = time.monotonic()
        if len(self._tried_s) > 20:  # a worker's name is in it
            self._tried_s.pop(min(self._tried_s, key=lambda why: self._tried_s[why]))

    def rows(self) -> list[dict[str, Any]]:
        """What `/worker-status` tells."""
        now = time.monotonic()
        return [
            {"why": why, "ago_s": round(now - tried_s)}
            for why, tried_s in self._tried_s.items()
            if now - tried_s < _REMEMBERED_S
        ]


def status_rows(
    workers: Iterable[WorkerConnection],
    turned_away: TurnedAway,
    absence_of: Callable[[WorkerConnection], Absence | None],
) -> dict[str, Any]:
    """The answer of `/worker-status`: JSON of names, versions and what each worker's healthcheck says."""
    rows = [_row(worker, absence_of(worker)) for worker in workers]
    return {"version": VERSION, "workers": rows, "turned_away": turned_away.rows()}


def _row(worker: WorkerConnection, absence: Absence | None) -> dict[str, Any]:
    row: dict[str, Any] = {"name": worker.name, "version": worker.version}
    if absence:
        row["absence"] = asdict(absence)
    if health := worker.health:
        told = health.model_dump(include={"state", "engine", "gpu", "model", "reason", "stage", "hardware"})
        row |= {name: value for name, value in told.items() if value is not None}
    return row


async def no_websocket(request: Request) -> Response:
    """Answers a worker whose request lost its "Upgrade" on the way, so that it can tell that from a wrong address."""
    return Response("A worker's line is a WebSocket.", status_code=426, headers={"Upgrade": "websocket"})
