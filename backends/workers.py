"""The workers that dial this Space: GPU boxes behind NAT, each with a line that it opened itself.

Nothing is started from here and no address is known: who is connected can draw. A drawing goes to the worker with the
most room; one whose worker is lost goes to another, or waits for it to come back and takes up what it had drawn.
"""

import logging
import threading
import time
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from backends.away import STANDS_IN, Awaited, as_sketch, away_error
from backends.base import Backend, Cancelled
from backends.by_room import by_room
from backends.connected_workers import LINK, absence_of, absence_of_all, none_draws, paused, status_of
from backends.lost_drawings import LEASE_S, PROCESSES_MAX, LostDrawings, lost_error
from backends.worker_door import WorkerDoor
from backends.worker_status import no_websocket, status_rows
from drawing.events import Tell, Waking
from drawing.models import GeneratedImage, GenerationRequest
from drawing.status import BackendStatus
from endpoint.wire_format import Health
from endpoint.worker_connection import WorkerConnection
from endpoint.worker_transport import WorkerTransport
from endpoint_client import EndpointClient
from errors import (
    Absence,
    AwayError,
    BusyError,
    DrawingError,
    EndpointUnreachableError,
    GpuBusyError,
    JobCancelledError,
    StartError,
    WorkerLostError,
)

log = logging.getLogger(__name__)

_PROCESSES_KNOWN = 64
_KEEP_MARGIN_S = 15.0  # this Space may notice so much later than the worker that the line is dead
AWAY_FOR_A_MOMENT = "The machine that draws is away for a moment; waiting for it"
BACK = "The machine that draws is back"


class Workers:
    """The backend of the workers that connect. `key`: the one that they show; `wait_s`: how long a drawing waits for a
    worker that was there a moment ago; `fallback`: who draws while none is there, None: nobody.
    """

    def __init__(
        self, key: str, *, wait_s: float = 60.0, start_s: float = 300.0, fallback: Backend | None = None
    ) -> None:
        self._door = WorkerDoor(key)
        self._wait_s, self._start_s = wait_s, start_s
        self._fallback = fallback
        self._changed = threading.Condition()
        self._clients: dict[WorkerConnection, EndpointClient] = {}
        self._awaited = Awaited(wait_s, begins_alone=fallback is None)
        self._seen: WorkerConnection | None = None  # the newest one, gone or not: what it draws, we remember
        self._healths: dict[str, Health | None] = {}  # of each process, as it was told last
        self._lost = LostDrawings()

    async def serve(self, socket: WebSocket) -> None:
        """One worker's WebSocket, until it ends. A wrong key is refused before the handshake is done."""
        if not self._door.knows(socket.headers):
            await self._door.refuse(socket)
            return
        await socket.accept()
        connection = WorkerConnection(socket, keep_s=self._keep_s)
        try:
            await connection.run(self._on_beat, self._on_hello)
        finally:
            if connection.turned_away:
                self._door.turned_away.note(f"{connection.name}: {connection.turned_away}")
            self._remove(connection)

    def _keep_s(self) -> float:
        """How long a worker goes on with what it draws when its line breaks: until it is back, if nobody else draws."""
        several = len({worker.instance for worker in list(self._clients) if not worker.is_going}) > 1
        return LEASE_S if several else self._wait_s + _KEEP_MARGIN_S

    def _on_hello(self, connection: WorkerConnection) -> None:
        """Ends what is left of an older line of the same process, which goes on as it was until its next beat."""
        for older in list(self._clients):
            if older.instance == connection.instance:
                older.supersede()
        if (known := self._healths.get(connection.instance)) is not None:
            connection.health = known
            self._on_beat(connection)

    def _on_beat(self, connection: WorkerConnection) -> None:
        self._note_health(connection)
        if connection in self._clients:
            with self._changed:
                self._changed.notify_all()
            return
        log.info("worker %s (%s) is there and draws with %s", connection.name, connection.version, _model(connection))
        transport = WorkerTransport(connection)
        with self._changed:
            self._clients[connection] = EndpointClient(transport.url, transport=transport)
            self._awaited.came(connection.name)
            self._seen = connection
            self._changed.notify_all()
        looking = threading.Timer(LEASE_S, self._cancel_unasked, (connection,))
        looking.daemon = True
        looking.start()

    def _note_health(self, connection: WorkerConnection) -> None:
        self._healths.pop(connection.instance, None)
        self._healths[connection.instance] = connection.health
        while len(self._healths) > _PROCESSES_KNOWN:
            del self._healths[next(iter(self._healths))]

    def _cancel_unasked(self, connection: WorkerConnection) -> None:
        """Ends what a worker that came back still draws though nobody wants it: cancelled, or drawn elsewhere."""
        with self._changed:
            client = self._clients.get(connection)
            unasked = self._lost.take_unasked(connection) if client else []
        for job_id in unasked:
            if client is not None:
                client.cancel(job_id)

    def _remove(self, connection: WorkerConnection) -> None:
        with self._changed:
            if self._clients.pop(connection, None) is not None:
                log.warning("worker %s is gone: %s", connection.name, connection.ended)
                self._awaited.lost(connection.name, paused=absence_of(connection) is not None)
            self._changed.notify_all()

    def _best(self) -> WorkerConnection | None:
        """The worker with the most room among those that take a drawing now."""
        return next(iter(by_room(self._clients)), None)

    def ensure(self, tell: Tell, cancelled: Cancelled) -> None:
        """Waits for a worker as long as one may be about to come.

        Raises: AwayError or StartError when none came and there is no fallback; JobCancelledError.
        """
        begun = time.monotonic()
        told = ""
        while True:
            with self._changed:
                is_there = self._best() is not None
                stage, until = self._wait(begun)
            if is_there:
                if told == AWAY_FOR_A_MOMENT:
                    tell(Waking(BACK))
                return
            if cancelled():
                raise JobCancelledError("The drawing was cancelled.")
            if time.monotonic() >= until:
                break
            if stage != told:
                tell(Waking(stage))  # without the lock: whoever hears it may ask for the status
                told = stage
            with self._changed:
                if self._best() is None:
                    self._changed.wait(min(0.25, until - time.monotonic()))
        with self._changed:
            # Which drawing this is, `draw` knows: a paused worker finishes those that it has.
            has_lost = any(self._lost.wait_at(worker.instance) for worker in paused(self._clients))
        if self._fallback is not None:
            self._fallback.ensure(tell, cancelled)
        elif not has_lost:
            raise none_draws(list(self._clients), self._awaited.left_at)

    def _wait(self, begun: float) -> tuple[str, float]:
        """What is waited for while no worker takes a drawing, and until when."""
        loading = [worker.health for worker in self._clients if worker.health and not worker.is_going]
        loading = [health for health in loading if health.state == "loading" and not health.absence]
        if loading and loading[0].is_downloading and self._fallback is None:
            return loading[0].loading_sentence, float("inf")
        if loading:
            return loading[0].loading_sentence, begun + self._start_s
        return AWAY_FOR_A_MOMENT, self._back_until()

    def _back_until(self) -> float:
        """Until when one that was there a moment ago is waited for, by the monotonic clock. One that ends is there; one
        that is paused is none to wait for.
        """
        if any(worker.is_going and not absence_of(worker) for worker in self._clients):
            return time.monotonic() + self._wait_s
        return self._awaited.until_s(at_start=not (self._clients and self._absence()))

    def _absence(self) -> Absence | None:
        return absence_of_all(list(self._clients), self._awaited.left_at)

    def draw(self, request: GenerationRequest, *, job_id: str, tell: Tell, cancelled: Cancelled) -> GeneratedImage:
        """Draws on the worker with the most room, the next one where it refuses for now, or on the fallback.

        One whose line broke while it drew this goes first: it has the picture, or a part of it.
        Raises: what EndpointClient.infer raises; WorkerLostError when the line breaks.
        """
        self._wait_for_its_worker(job_id, tell, cancelled)
        with self._changed:
            able = by_room(self._clients, request)
            if lost := self._lost.get(job_id):
                able += [worker for worker in paused(self._clients) if worker.instance == lost.instance]
                able.sort(key=lambda worker: worker.instance != lost.instance)
            clients = [(worker, self._clients[worker]) for worker in able]
            several = len(self._clients) > 1
        refused: BusyError | GpuBusyError | StartError | None = None
        for worker, client in clients:
            try:
                with self._changed:
                    self._lost.claim(job_id, worker)
                image = client.infer(request, request_id=job_id, tell=tell, cancelled=cancelled)
            except AwayError as error:  # paused since it told of itself
                worker.note_absence(error.absence)
                continue
            except (BusyError, GpuBusyError, StartError) as error:
                refused = refused or error
                continue
            except JobCancelledError as error:
                if worker.ended is not None or not error.server_knows:  # it is told when it comes back
                    self._note_lost(job_id, worker)
                if cancelled():
                    raise
                # It was told to stop what nobody asked for any more, just as this was asked for again.
                raise lost_error(
                    worker.link, "it had been told to end this drawing", "It is asked for again."
                ) from None
            except EndpointUnreachableError as error:
                raise self._note_lost(job_id, worker, error) from error
            return replace(image, receipt=replace(image.receipt, worker=worker.name)) if several else image
        if refused:
            raise refused
        with self._changed:
            absence, awaited = self._absence() or Absence(), time.monotonic() < self._back_until()
        if awaited or (self._fallback is None and absence.reason == "off"):
            raise lost_error(LINK, "no worker is connected any more")
        if self._fallback is None:
            raise away_error(LINK, "draw", absence)
        tell(Waking(STANDS_IN[absence.reason]))
        self._fallback.ensure(tell, cancelled)  # a worker may have been lost since ours
        request = request.within(self._fallback.status().limits)
        return as_sketch(self._fallback.draw(request, job_id=job_id, tell=tell, cancelled=cancelled), absence)

    def _wait_for_its_worker(self, job_id: str, tell: Tell, cancelled: Cancelled) -> None:
        """While the worker that this was lost with may be drawing it, no other one does. Raises: JobCancelledError.

        What is told is told without the lock: whoever hears it may ask for the status.
        """
        told = ""
        while True:
            with self._changed:
                stage, remaining_s = self._held(job_id)
            if stage and stage != told:  # once: all who wait in line are told it, too
                tell(Waking(stage))
                told = stage
            if remaining_s <= 0:
                return
            if cancelled():
                raise JobCancelledError()
            with self._changed:
                self._changed.wait(min(0.1, remaining_s))

    def _held(self, job_id: str) -> tuple[str, float]:
        """What to tell of a drawing that was lost with its worker, and how many seconds no other one may draw it."""
        lost = self._lost.get(job_id)
        if lost is None or lost.asked_again:
            return "", 0.0
        if back := next((worker for worker in self._clients if lost.is_back(worker)), None):
            return (BACK if back is not lost.connection else ""), 0.0
        if any(lost.is_over(worker) for worker in self._clients):
            return "", 0.0
        remaining_s = lost.held_until_s - time.monotonic()
        return AWAY_FOR_A_MOMENT if remaining_s > 0 else "", remaining_s

    def _note_lost(
        self, job_id: str, worker: WorkerConnection, error: EndpointUnreachableError | None = None
    ) -> WorkerLostError | DrawingError:
        """Remembers who may still be drawing this; the error to raise."""
        with self._changed:
            lost = self._lost.note(job_id, worker)
            if all(other.is_going or other.instance != worker.instance for other in self._clients):
                self._awaited.lost(worker.name, paused=False)  # it finishes this, paused or not
        if len(lost.instances) >= PROCESSES_MAX:
            told = f"{PROCESSES_MAX} workers were lost while they drew this. Try another prompt or smaller numbers."
            return DrawingError(told, code="WORKERS_LOST")
        came_back = error.came_back if error else "its line broke"
        return lost_error(worker.link, came_back)

    def status(self) -> BackendStatus:
        """What is known now."""
        with self._changed:
            workers, newest, absence = list(self._clients), self._seen, self._absence()
        stand_in = self._fallback.status() if absence is not None and self._fallback is not None else None
        return status_of(workers, newest, absence, stand_in)

    def routes(self) -> list[BaseRoute]:
        """See `Backend`."""
        return [
            WebSocketRoute("/worker", self.serve),
            Route("/worker", no_websocket),
            Route("/worker-status", self.tell_owner),
        ]

    async def tell_owner(self, request: Request) -> Response:
        """Lists the workers and who was turned away, for a request with the workers' key, such as the doctor's."""
        if not self._door.knows(request.headers):
            return Response(status_code=404)
        return JSONResponse(status_rows(list(self._clients), self._door.turned_away, absence_of))

    def close(self) -> None:
        """Ends the fallback; the lines end with the page's server."""
        if self._fallback is not None:
            self._fallback.close()


def _model(connection: WorkerConnection) -> str:
    return (connection.health.model if connection.health else None) or "a model that it does not name"
