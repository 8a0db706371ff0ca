"""The queue of requests in front of the engine process: `submit(request) -> Ticket`, `cancel(ticket)`.

The dispatcher gives the engine process as many requests as it draws side by side, first come, first served. A request
that was being drawn when the process died is drawn once more; if the process dies again, it is refused.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable

from inference_server import errors
from inference_server.config import InferenceConfig
from inference_server.encoding import Encoder
from inference_server.engine_child import EngineChild
from inference_server.errors import Refusal
from inference_server.in_flight import InFlight
from inference_server.messages import (
    NO_GPU,
    BatchStats,
    Cancel,
    Cancelled,
    Capacity,
    DrawFailed,
    Drawn,
    FromEngine,
    Hardware,
    LoadFailed,
    ModelInfo,
    Step,
)
from inference_server.metrics import Metrics
from inference_server.owner import Owner
from inference_server.resolve import Offer, resolve
from inference_server.served_model import ServedModel
from inference_server.supervisor import STEP_DEADLINE_S, Phase, Supervisor
from inference_server.tickets import Queued, Ticket, Waking
from inference_server.wire import PictureRequest

log = logging.getLogger("inference_server.dispatcher")
MAX_ATTEMPTS = 2
_LOOK_S = 0.05


class Dispatcher:
    """Belongs to the event loop's thread."""

    def __init__(
        self,
        config: InferenceConfig,
        start_child: Callable[[], EngineChild],
        metrics: Metrics,
        owner: Owner,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        """`end`: ends the server, where only a new container can go on."""
        self._idle_engine_s, self._metrics, self._owner, self._end = config.idle_engine_s, metrics, owner, end
        self._encoder = Encoder()
        self._supervisor = Supervisor(start_child, self)
        self._model = ServedModel(config)
        self._queue: deque[Ticket] = deque()
        self._in_flight = InFlight()
        self._idle: asyncio.TimerHandle | None = None
        self._closed = False

    # What the server asks

    @property
    def offer(self) -> Offer:
        return self._model.offer

    @property
    def phase(self) -> Phase:
        return self._supervisor.phase

    @property
    def stage(self) -> str:
        """What the engine process is doing before it is ready, in words that a visitor may read."""
        return self._supervisor.stage

    @property
    def hardware(self) -> Hardware | None:
        """What the engine process told of the GPU when it last loaded; None without one."""
        return self._supervisor.hardware

    @property
    def reason(self) -> str:
        """Why the model is not loaded; empty unless it failed."""
        return self._supervisor.failure.reason if self.phase is Phase.FAILED else ""

    @property
    def images_at_once(self) -> int:
        """How many images the engine draws side by side, as far as is known."""
        return self._in_flight.images_at_once

    @property
    def busy(self) -> bool:
        """Whether anything is drawn, waits or is being encoded."""
        return bool(self._queue or self._in_flight or self._encoder.busy)

    @property
    def paused(self) -> bool:
        """Whether nothing new is drawn, as the owner wants it."""
        return self._owner.pause is not None

    def start(self, child: EngineChild | None) -> None:
        """Takes over the engine process that was started with the server. None: there is none, as it is paused."""
        if child is None and self.paused:
            self._supervisor.sleep()
        else:
            self._supervisor.start(child)

    def mind_owner(self) -> None:
        """Takes in what the owner wants; called twice a second. A pause lets what is being drawn be finished, refuses
        what waits, and then ends the engine process, so that the GPU is free.
        """
        self._owner.tick()
        pause = self._owner.pause
        if pause is None:
            if self.phase is Phase.ASLEEP and self._model.info is None:
                self._supervisor.start()  # nobody posts to a server that does not know its model
            return
        for ticket in [ticket for ticket in self._queue if not ticket.attempts]:
            self._queue.remove(ticket)
            ticket.refuse(errors.paused(pause, self._owner.pause_left_s))
        if self.phase is not Phase.ASLEEP and not self._queue and not self._in_flight:
            self._supervisor.sleep()

    def submit(self, request: PictureRequest) -> Ticket:
        """Puts a request in the queue and wakes the engine if need be.

        Raises: Refusal, when too many wait, the model cannot be loaded or the server is ending.
        """
        if self._closed:
            raise errors.shutting_down()
        if pause := self._owner.pause:
            raise errors.paused(pause, self._owner.pause_left_s)
        waiting = len(self._queue) + len(self._in_flight.ahead_of_time())
        if self._must_wait(request) and waiting >= self._model.limits.waiting_requests.max:
            raise errors.busy(waiting)
        if self.phase is Phase.FAILED and (pause_s := self._supervisor.pause_s) > 0:
            raise errors.not_loaded(self._supervisor.failure, pause_s)
        ticket = Ticket(request)
        self._queue.append(ticket)
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self.phase in (Phase.ASLEEP, Phase.FAILED):
            self._supervisor.start()
        self._next()
        return ticket

    def _must_wait(self, request: PictureRequest) -> bool:
        if self.phase in (Phase.ASLEEP, Phase.FAILED) and not self._queue:
            return False  # the request that wakes the engine is always taken, even where none may wait
        return (
            self.phase is not Phase.READY
            or bool(self._queue)
            or not self._in_flight.has_place(request.inputs.num_images_per_prompt)
        )

    def cancel(self, ticket: Ticket) -> None:
        """Ends a request: at once while it waits, at the next step while it is drawn."""
        if ticket.outcome is not None:
            return
        request = self._in_flight.of(ticket)
        if request is not None:
            self._supervisor.send(Cancel(request.number))
        elif ticket in self._queue:
            self._queue.remove(ticket)
        ticket.refuse(errors.cancelled())
        self._next()  # it may have held up those behind it

    async def finish(self, timeout_s: float) -> None:
        """Waits until nothing is drawn and nothing waits, at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.busy:  # noqa: ASYNC110  many things end it
                    await asyncio.sleep(_LOOK_S)

    async def finish_encoding(self) -> None:
        """Waits until what the engine has finished is an answer."""
        await self._encoder.finish()

    def close(self) -> None:
        """Ends the engine process and everything that waits for it."""
        self._closed = True
        self._supervisor.end()
        waiting = [*(request.ticket for request in self._in_flight.clear()), *self._queue]
        self._queue.clear()
        for ticket in waiting:
            ticket.refuse(errors.shutting_down())

    # What the supervisor reports

    def on_phase(self, phase: Phase) -> None:
        self._metrics.on_phase(phase.value)
        self._tell_waiting()

    def on_stage(self) -> None:
        self._tell_waiting()

    def on_ready(self, model_info: ModelInfo) -> None:
        self._metrics.touch()
        if self._model.has_gpu and not model_info.gpu:
            self._end_without_gpu()
        self._model.note(model_info)
        self._in_flight.allow(model_info.images_at_once, model_info.images_ahead)
        self._next()

    def on_wake(self, took_s: float) -> None:
        self._owner.on_wake(took_s)

    def on_failed(self, failure: LoadFailed, pause_s: int) -> None:
        waiting, self._queue = self._queue, deque()
        for ticket in waiting:
            ticket.refuse(errors.not_loaded(failure, pause_s))
        if failure.code == NO_GPU and self._model.has_gpu:
            self._end_without_gpu()

    def _end_without_gpu(self) -> None:
        """A container that has lost its GPU (a `systemctl daemon-reload` does that) never gets it back."""
        log.error("the GPU that was here is gone: the server ends, so that a new container is started")
        self._end()

    def on_lost(self, reason: str) -> bool:
        self._metrics.engine_crashes.inc()
        lost = [request.ticket for request in self._in_flight.clear() if request.ticket.outcome is None]
        again = [ticket for ticket in lost if ticket.attempts < MAX_ATTEMPTS]
        self._queue.extendleft(reversed(again))
        for ticket in lost:
            if ticket not in again:
                ticket.refuse(errors.engine_crashed(reason))
        return bool(lost or self._queue)

    def on_drawing_message(self, message: FromEngine) -> None:
        match message:
            case Step(number=number):
                if request := self._in_flight.get(number):
                    request.on_step(message)
            case Drawn() | DrawFailed() | Cancelled():
                self._on_end(message)
            case BatchStats():
                self._metrics.on_batch(message)
            case Capacity(images):
                log.warning("the engine draws at most %d images side by side from now on", images)
                self._in_flight.lower(images)
        if self.phase is Phase.READY:
            self._supervisor.expect_word(STEP_DEADLINE_S if self._in_flight else None)

    def _on_end(self, message: Drawn | DrawFailed | Cancelled) -> None:
        request = self._in_flight.get(message.number)
        if request is None:
            return
        self._in_flight.end(message.number)
        match message:
            case Drawn():
                self._metrics.images.inc(len(message.images))
                self._owner.on_pictures(len(message.images))
                if request.ticket.outcome is None:
                    self._encoder.begin(request.ticket, request.finished(message, self._supervisor.ready_s))
            case DrawFailed(reason=reason):
                request.ticket.refuse(errors.cannot_draw(f"The model could not draw this: {reason}"))
            case Cancelled():
                request.ticket.refuse(errors.cancelled())
        self._next()

    # The loop

    def _next(self) -> None:
        """Gives the engine process as many drawings as it draws side by side."""
        while self.phase is Phase.READY and self._queue and self._begin(self._queue[0]):
            self._queue.popleft()
        self._tell_waiting()
        self._watch_idleness()

    def _begin(self, ticket: Ticket) -> bool:
        """True when the first of the queue is drawn now or was refused, so that it leaves the queue."""
        try:
            resolved = resolve(ticket.request, self.offer)
        except Refusal as refusal:
            ticket.refuse(refusal)
            return True
        alone = ticket.attempts > 0
        if not self._in_flight.has_room(len(resolved.params.seeds), alone=alone):
            return False
        self._supervisor.send(self._in_flight.begin(ticket, resolved, alone=alone))
        self._supervisor.expect_word(STEP_DEADLINE_S)
        return True

    def _tell_waiting(self) -> None:
        waiting = [*(request.ticket for request in self._in_flight.ahead_of_time()), *self._queue]
        self._metrics.waiting.set(len(waiting))
        self._metrics.drawing.set(len(self._in_flight) + len(self._queue) - len(waiting))
        loads = self.phase is Phase.LOADING and not self._supervisor.is_downloading
        self._owner.on_engine(self.phase.value, works=loads or bool(self._in_flight))
        for place, ticket in enumerate(waiting, 1):
            if self.phase is Phase.READY:
                ticket.tell(Queued(place))
            else:
                usual_s = None if self._supervisor.is_downloading else self._owner.wakes_in_s
                ticket.tell(Waking(self._supervisor.stage, self._supervisor.stage_since_s, usual_s))

    def _watch_idleness(self) -> None:
        idle_s = self._idle_engine_s
        if idle_s and self._idle is None and self._is_idle():
            self._idle = asyncio.get_running_loop().call_later(idle_s, self._fall_asleep)

    def _is_idle(self) -> bool:
        return self.phase is Phase.READY and not self._queue and not self._in_flight

    def _fall_asleep(self) -> None:
        self._idle = None
        if self._is_idle():
            log.info("engine idle for %g s: asleep", self._idle_engine_s)
            self._supervisor.sleep()
