"""The workers that dial this Space: GPU boxes behind NAT, each with a line that it opened itself.

Nothing is started from here and no address is known: who is connected can draw. A drawing goes to the worker with the
most room; one whose worker is lost goes to another, or waits for it to come back and takes up what it had drawn.
"""

import asyncio
import functools
import hashlib
import hmac
import logging
import threading
import time
from collections import deque
from dataclasses import replace

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from backends.base import Backend, Cancelled
from drawing.events import Tell, Waking
from drawing.models import Defaults, GeneratedImage, GenerationRequest, Limits
from drawing.status import BackendStatus
from endpoint.wire_format import Health
from endpoint.worker_connection import WorkerConnection
from endpoint.worker_transport import WorkerTransport
from endpoint_client import EndpointClient
from errors import AwayError, BusyError, EndpointUnreachableError, GpuBusyError, JobCancelledError, StartError

log = logging.getLogger(__name__)

KEY_HEADER = "x-worker-key"
WRONG_KEYS_A_MINUTE = 10
_SLOWED_S = 3.0
_START_GRACE_S = 15.0  # after this Space's own start its workers need a moment to come back
_LINK = "Workers"
AWAY_FOR_A_MOMENT = "The machine that draws is away for a moment; waiting for it"
SKETCH = "A sketch: the machine that draws is off, and a small model stood in for it"


class Workers:
    """The backend of the workers that connect. `key`: the one that they show; `wait_s`: how long a drawing waits for a
    worker that was there a moment ago; `fallback`: who draws while none is there, None: nobody.
    """

    def __init__(
        self, key: str, *, wait_s: float = 60.0, start_s: float = 300.0, fallback: Backend | None = None
    ) -> None:
        self._digest = _digest(key)
        self._wait_s, self._start_s = wait_s, start_s
        self._fallback = fallback
        self._changed = threading.Condition()
        self._clients: dict[WorkerConnection, EndpointClient] = {}
        self._last_there_s = time.monotonic() - max(0.0, wait_s - _START_GRACE_S)
        self._seen: WorkerConnection | None = None  # the newest one, gone or not: what it draws, we remember
        self._wrong: deque[float] = deque(maxlen=WRONG_KEYS_A_MINUTE)

    async def serve(self, socket: WebSocket) -> None:
        """One worker's WebSocket, until it ends. A wrong key is refused before the handshake is done."""
        if not self._knows_key(socket.headers):
            await self._refuse(socket)
            return
        await socket.accept()
        connection = WorkerConnection(socket)
        try:
            await connection.run(self._on_beat)
        finally:
            self._remove(connection)

    async def _refuse(self, socket: WebSocket) -> None:
        now = time.monotonic()
        if len(self._wrong) == WRONG_KEYS_A_MINUTE and now - self._wrong[0] < 60:
            await asyncio.sleep(_SLOWED_S)
        else:
            log.warning("somebody showed a wrong worker's key; `python manage.py worker-key` prints the right one")
        self._wrong.append(now)
        await socket.close()

    def _on_beat(self, connection: WorkerConnection) -> None:
        if connection in self._clients:
            with self._changed:
                self._changed.notify_all()
            return
        log.info("worker %s (%s) is there and draws with %s", connection.name, connection.version, _model(connection))
        transport = WorkerTransport(connection)
        with self._changed:
            self._clients[connection] = EndpointClient(transport.url, transport=transport)
            self._seen = connection
            self._changed.notify_all()

    def _remove(self, connection: WorkerConnection) -> None:
        with self._changed:
            if self._clients.pop(connection, None) is not None:
                log.warning("worker %s is gone: %s", connection.name, connection.ended)
                self._last_there_s = time.monotonic()
            self._changed.notify_all()

    def _best(self) -> WorkerConnection | None:
        """The worker with the most room among those that take a drawing now."""
        return next(iter(self._by_room()), None)

    def _by_room(self, request: GenerationRequest | None = None) -> list[WorkerConnection]:
        """Those that take a drawing now; without those whose limits `request` exceeds, if others are left.

        One whose GPU is busy draws nothing, but has no room either: it comes last. Of equal ones the newest line comes
        first: an older one may be what is left of a worker that has come back.
        """
        able = [
            (worker.health, worker)
            for worker in reversed(list(self._clients))
            if not worker.is_going and worker.health is not None and worker.health.takes_posts
        ]
        fitting = [one for one in able if _allows(one[0], request)] or able
        fitting.sort(key=lambda one: (one[0].gpu_busy, one[1].in_flight))
        return [worker for _, worker in fitting]

    def ensure(self, tell: Tell, cancelled: Cancelled) -> None:
        """Waits for a worker as long as one may be about to come.

        Raises: AwayError or StartError when none came and there is no fallback; JobCancelledError.
        """
        begun = time.monotonic()
        told = ""
        with self._changed:
            while self._best() is None:
                if cancelled():
                    raise JobCancelledError("The drawing was cancelled.")
                stage, until = self._wait(begun)
                now = time.monotonic()
                if now >= until:
                    break
                if stage != told:
                    tell(Waking(stage))
                    told = stage
                self._changed.wait(min(0.25, until - now))
            else:
                return
        if self._fallback is None:
            raise self._nobody()
        self._fallback.ensure(tell, cancelled)

    def _wait(self, begun: float) -> tuple[str, float]:
        """What is waited for while no worker takes a drawing, and until when."""
        loading = [worker.health for worker in self._clients if worker.health and not worker.is_going]
        loading = [health for health in loading if health.state == "loading"]
        if loading and loading[0].is_downloading and self._fallback is None:
            return loading[0].loading_sentence, float("inf")
        if loading:
            return loading[0].loading_sentence, begun + self._start_s
        return AWAY_FOR_A_MOMENT, self._back_until()

    def _back_until(self) -> float:
        """Until when one that was there a moment ago is waited for, by the monotonic clock. One that ends is there."""
        if any(worker.is_going for worker in self._clients):
            self._last_there_s = time.monotonic()
        return self._last_there_s + self._wait_s

    def _nobody(self) -> StartError:
        there, tried = next(iter(self._clients), None), "find one that draws"
        if there is None:
            off = "Its owner's machine is off; start the worker there."
            return AwayError(_LINK, tried=tried, came_back="none is connected", next_step=off)
        came_back = f"{there.name} was not ready in time"
        if there.health and there.health.broken:
            reason = f" ({there.health.reason})" if there.health.reason else ""
            came_back = f"{there.name} could not load its model{reason}"
        return StartError(_LINK, tried=tried, came_back=came_back, next_step="See its log.")

    def draw(self, request: GenerationRequest, *, job_id: str, tell: Tell, cancelled: Cancelled) -> GeneratedImage:
        """Draws on the worker with the most room, the next one where it refuses for now, or on the fallback.

        Raises: what EndpointClient.infer raises.
        """
        with self._changed:
            able = [(worker, self._clients[worker]) for worker in self._by_room(request)]
            several = len(self._clients) > 1
            awaited = time.monotonic() < self._back_until()
        refused: BusyError | GpuBusyError | StartError | None = None
        for worker, client in able:
            try:
                image = client.infer(request, request_id=job_id, tell=tell, cancelled=cancelled)
            except (BusyError, GpuBusyError, StartError) as error:
                refused = refused or error
                continue
            return replace(image, receipt=replace(image.receipt, worker=worker.name)) if several else image
        if refused:
            raise refused
        if self._fallback is None or awaited:
            raise EndpointUnreachableError(
                _LINK,
                how="closed",
                tried="draw",
                came_back="no worker is connected any more",
                next_step="It is waited for.",
            )
        self._fallback.ensure(tell, cancelled)  # a worker may have been lost since ours
        request = request.within(self._fallback.status().limits)
        image = self._fallback.draw(request, job_id=job_id, tell=tell, cancelled=cancelled)
        return replace(image, receipt=replace(image.receipt, substituted=(*image.receipt.substituted, SKETCH)))

    def status(self) -> BackendStatus:
        """What is known now, the limits of all who can draw; of the newest worker where none is there."""
        with self._changed:
            able = self._by_room()
            worker = able[0] if able else self._seen
            away = not self._clients
        health = worker.health if worker else None
        known = [one.health.limits for one in (able or [worker]) if one and one.health and one.health.limits]
        limits = functools.reduce(Limits.wider, known) if known else Limits()
        stand_in = self._fallback.status() if away and self._fallback is not None else None
        if stand_in is not None:
            limits = limits.model_copy(update={"images_at_once": stand_in.limits.images_at_once})
        return BackendStatus(
            kind="workers",
            demo=stand_in is not None and stand_in.demo,
            tunnel=False,
            ready=bool(health and health.engine == "ready" and worker in self._clients),
            model=health.model if health else None,
            limits=limits,
            defaults=health.defaults if health else Defaults(),
            away=away,
            stand_in=stand_in is not None,
        )

    def routes(self) -> list[BaseRoute]:
        """See `Backend`."""
        return [WebSocketRoute("/worker", self.serve), Route("/worker-status", self.tell_owner)]

    async def tell_owner(self, request: Request) -> Response:
        """Lists the connected workers, for a request with the workers' key, such as the doctor's."""
        if not self._knows_key(request.headers):
            return Response(status_code=404)
        workers = [{"name": worker.name, "version": worker.version} for worker in list(self._clients)]
        return JSONResponse({"workers": workers})

    def _knows_key(self, headers: Headers) -> bool:
        return hmac.compare_digest(_digest(headers.get(KEY_HEADER, "")), self._digest)

    def close(self) -> None:
        """Ends the fallback; the lines end with the page's server."""
        if self._fallback is not None:
            self._fallback.close()


def _allows(health: Health, request: GenerationRequest | None) -> bool:
    return request is None or health.limits is None or request.within(health.limits) == request


def _model(connection: WorkerConnection) -> str:
    return (connection.health.model if connection.health else None) or "a model that it does not name"


def _digest(key: str) -> bytes:
    """Digests are compared, not keys: the time taken tells nothing of the key."""
    return hashlib.sha256(key.strip().encode()).digest()
