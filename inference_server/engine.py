"""The engine as the routes see it: `submit(request) -> Ticket`, and which state it is in.

It owns its queue and its loop: whether requests run alone or share steps is its business. The process that draws is
started when needed, sleeps when idle, and is started again when it dies; the drawing that it was at is drawn once more.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from inference_server import errors
from inference_server.engine_child import EngineChild
from inference_server.errors import Refusal
from inference_server.limits import Defaults, Limits, LimitsOverride, defaults_of_model, of_model
from inference_server.messages import (
    Cancel,
    Cancelled,
    Draw,
    DrawFailed,
    Drawn,
    FromEngine,
    LoadFailed,
    ModelFacts,
    RawImage,
    Ready,
    Stage,
    Step,
)
from inference_server.metrics import Metrics
from inference_server.resolve import Offer, Resolved, resolve
from inference_server.tickets import Outcome, Progress, Queued, Ticket, Waking
from inference_server.wire import PictureRequest

log = logging.getLogger("inference_server.engine")

LOAD_DEADLINE_S = 1800.0  # without a word from a loading engine; a hub download of some GB fits
STEP_DEADLINE_S = 180.0  # without a step from a drawing engine
MAX_ATTEMPTS = 2
MAX_PAUSE_S = 300


class Phase(StrEnum):
    """What the engine process is at."""

    LOADING = "loading"
    READY = "ready"
    ASLEEP = "asleep"
    FAILED = "failed"


@dataclass(frozen=True)
class Finished:
    """A drawing that came back from the engine, to be turned into the answer's JSON."""

    request: PictureRequest
    resolved: Resolved
    images: tuple[RawImage, ...]
    init_ms: float  # waiting for the engine to be ready
    queue_ms: float  # waiting for others
    inference_ms: float


@dataclass(frozen=True)
class EngineSettings:
    """What the engine needs to know of the configuration."""

    override: LimitsOverride
    lenient: bool
    idle_engine_s: float  # 0 = never asleep


@dataclass
class _Current:
    """The drawing under way."""

    ticket: Ticket
    resolved: Resolved
    number: int
    step_s: float  # when the last step was done
    preview: RawImage | None = None
    preview_number: int = 0


class Engine:
    """Belongs to the event loop's thread, which is the main thread (see `EngineChild`)."""

    def __init__(
        self,
        settings: EngineSettings,
        start_child: Callable[[], EngineChild],
        answer: Callable[[Finished], bytes],
        metrics: Metrics,
    ) -> None:
        self._settings, self._start_child, self._answer, self._metrics = settings, start_child, answer, metrics
        self.phase = Phase.LOADING
        self.reason = ""  # why the model is not loaded, while FAILED
        self.facts: ModelFacts | None = None
        self.limits: Limits = settings.override.over(Limits())
        self.defaults: Defaults | None = None
        self._stage, self._stage_since_s = "starting the engine", time.monotonic()
        self._ready_s = 0.0
        self._child: EngineChild | None = None
        self._queue: deque[Ticket] = deque()
        self._current: _Current | None = None
        self._number = 0
        self._answering: set[asyncio.Task[None]] = set()
        self._load_failures = 0
        self._load_crashes = 0
        self._retry_s = 0.0
        self._watchdog: asyncio.TimerHandle | None = None
        self._idle: asyncio.TimerHandle | None = None
        self.closed = False

    # What the routes ask

    @property
    def offer(self) -> Offer:
        return Offer(self.limits, self.facts, self.defaults, self._settings.lenient)

    @property
    def busy(self) -> bool:
        """Whether anything is drawn, waits or is being encoded."""
        return bool(self._queue or self._current or self._answering)

    def submit(self, request: PictureRequest) -> Ticket:
        """Puts a request in the queue and wakes the engine if need be.

        Raises: Refusal, when too many wait, the model cannot be loaded or the server is ending.
        """
        if self.closed:
            raise errors.shutting_down()
        if len(self._queue) >= self.limits.waiting_requests.max and (self._current or self.phase is not Phase.READY):
            raise errors.busy(len(self._queue))
        if self.phase is Phase.FAILED and (pause_s := self._retry_s - time.monotonic()) > 0:
            raise errors.model_not_loaded(self.reason, max(1, round(pause_s)))
        ticket = Ticket(request)
        self._queue.append(ticket)
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self.phase in (Phase.ASLEEP, Phase.FAILED):
            self.start()
        self._next()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Ends a request: at once while it waits, at the next step while it is drawn."""
        if ticket.outcome is not None:
            return
        ticket.cancel_requested = True
        if ticket in self._queue:
            self._queue.remove(ticket)
        elif self._current is not None and self._current.ticket is ticket and self._child is not None:
            self._child.send(Cancel(self._current.number))
        ticket.refuse(errors.cancelled())
        self._tell_waiting()
        self._watch_idleness()

    def start(self, child: EngineChild | None = None) -> None:
        """Starts the engine process, or takes over one that was started before the event loop was."""
        self._set_phase(Phase.LOADING)
        self._stage, self._stage_since_s = "starting the engine", time.monotonic()
        self._child = child = child or self._start_child()
        loop = asyncio.get_running_loop()
        child.listen(
            lambda message: _call(loop, self._on_message, child, message),
            lambda reason: _call(loop, self._on_end, child, reason),
        )
        self._watch(LOAD_DEADLINE_S)
        log.info("engine process %d started", child.pid)
        self._tell_waiting()

    def close(self) -> None:
        """Ends the engine process and everything that waits for it."""
        self.closed = True
        self._end_child()
        waiting, self._queue = list(self._queue), deque()
        if self._current is not None:
            waiting.append(self._current.ticket)
            self._current = None
        for ticket in waiting:
            ticket.refuse(errors.shutting_down())

    # What the engine process says

    def _on_message(self, child: EngineChild, message: FromEngine) -> None:
        if child is not self._child:
            return
        match message:
            case Stage(text):
                self._stage = text
                self._watch(LOAD_DEADLINE_S)
                self._tell_waiting()
            case Ready(facts):
                self._on_ready(facts)
            case LoadFailed(reason):
                self._on_load_failed(reason)
            case _ if self._current is None or message.number != self._current.number:
                return
            case Step():
                self._on_step(self._current, message)
            case Drawn():
                self._on_drawn(self._current, message)
            case DrawFailed(reason=reason):
                self._on_refused(Refusal(500, "PIPELINE_ERROR", f"The model could not draw this: {reason}"))
            case Cancelled():
                self._on_refused(errors.cancelled())

    def _on_ready(self, facts: ModelFacts) -> None:
        self.facts = facts
        try:
            self.limits = self._settings.override.over(of_model(facts))
        except ValueError as exc:  # the file's limits do not fit this model
            self._on_load_failed(f"the configured limits do not fit the model: {exc}")
            return
        self.defaults = defaults_of_model(facts)
        self._load_failures = self._load_crashes = 0
        self._ready_s = time.monotonic()
        self._watch(None)
        self._set_phase(Phase.READY)
        log.info("engine ready: %s, after %.2f s", facts.name, self._ready_s - self._stage_since_s)
        self._next()
        self._watch_idleness()

    def _on_load_failed(self, reason: str) -> None:
        self._end_child()
        self._load_failures += 1
        pause_s = min(MAX_PAUSE_S, 2**self._load_failures)
        self.reason, self._retry_s = reason, time.monotonic() + pause_s
        self._set_phase(Phase.FAILED)
        log.error("the model cannot be loaded: %s; next try not before %d s", reason, pause_s)
        waiting, self._queue = self._queue, deque()
        for ticket in waiting:
            ticket.refuse(errors.model_not_loaded(reason, pause_s))

    def _on_step(self, current: _Current, message: Step) -> None:
        now_s = time.monotonic()
        self._metrics.step_seconds.observe(now_s - current.step_s)
        current.step_s = now_s
        if message.preview is not None:
            current.preview, current.preview_number = message.preview, current.preview_number + 1
        current.ticket.tell(Progress(message.step, message.num_steps, current.preview, current.preview_number))
        self._watch(STEP_DEADLINE_S)

    def _on_drawn(self, current: _Current, message: Drawn) -> None:
        """The engine goes on with the next while this one is encoded."""
        ticket = current.ticket
        self._current = None
        self._watch(None)
        self._next()
        if ticket.outcome is None:
            init_s = min(max(0.0, self._ready_s - ticket.submitted_s), ticket.started_s - ticket.submitted_s)
            finished = Finished(
                request=ticket.request,
                resolved=current.resolved,
                images=message.images,
                init_ms=init_s * 1000,
                queue_ms=(ticket.started_s - ticket.submitted_s - init_s) * 1000,
                inference_ms=message.inference_s * 1000,
            )
            task = asyncio.create_task(self._finish(ticket, finished))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        self._watch_idleness()

    async def _finish(self, ticket: Ticket, finished: Finished) -> None:
        try:
            body = await asyncio.to_thread(self._answer, finished)
        except Exception:
            log.exception("request %s: the picture could not be encoded", ticket.request.request_id)
            ticket.refuse(Refusal(500, "PIPELINE_ERROR", "The picture was drawn but could not be encoded."))
        else:
            ticket.finish(Outcome(body))

    def _on_refused(self, refusal: Refusal) -> None:
        if self._current is not None:
            self._current.ticket.refuse(refusal)
        self._current = None
        self._watch(None)
        self._next()
        self._watch_idleness()

    def _on_end(self, child: EngineChild, reason: str) -> None:
        """The process is gone without having been told to go."""
        if child is not self._child or self.closed:
            return
        self._child = None
        self._watch(None)
        log.error("the engine process %d is gone: %s", child.pid, reason)
        self._metrics.engine_crashes.inc()
        if self.phase is Phase.LOADING:
            self._load_crashes += 1
            if self._load_crashes > 1:
                self._on_load_failed(f"the engine process cannot get ready ({reason})")
                return
        current, self._current = self._current, None
        if current is not None and current.ticket.outcome is None:
            if current.ticket.attempts < MAX_ATTEMPTS:
                self._queue.appendleft(current.ticket)
            else:
                current.ticket.refuse(errors.engine_crashed(reason))
        self.start()

    # The loop

    def _next(self) -> None:
        """Gives the engine its next drawing, if it is free and one waits."""
        while self.phase is Phase.READY and self._current is None and self._queue:
            ticket = self._queue.popleft()
            try:
                resolved = resolve(ticket.request, self.offer)
            except Refusal as refusal:
                ticket.refuse(refusal)
                continue
            self._number += 1
            now_s = time.monotonic()
            ticket.attempts += 1
            ticket.started_s = now_s
            self._current = _Current(ticket, resolved, self._number, now_s)
            num_steps = resolved.drawing.num_inference_steps * len(resolved.drawing.seeds)
            ticket.tell(Progress(0, num_steps, None, 0))
            if self._child is not None:
                self._child.send(Draw(self._number, resolved.drawing))
            self._watch(STEP_DEADLINE_S)
        self._tell_waiting()

    def _tell_waiting(self) -> None:
        self._metrics.waiting.set(len(self._queue))
        for place, ticket in enumerate(self._queue, 1):
            if self.phase is Phase.READY:
                ticket.tell(Queued(place))
            else:
                ticket.tell(Waking(self._stage, self._stage_since_s))

    def _watch(self, deadline_s: float | None) -> None:
        """From now on the engine must say something within `deadline_s`; None: it need not."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._watchdog = None
        if deadline_s is not None:
            self._watchdog = asyncio.get_running_loop().call_later(deadline_s, self._on_silence, deadline_s)

    def _on_silence(self, deadline_s: float) -> None:
        log.error("the engine process said nothing for %d s while %s: ending it", deadline_s, self.phase)
        if self._child is not None:
            self._child.kill()  # `_on_end` does the rest

    def _watch_idleness(self) -> None:
        if not self._settings.idle_engine_s or self.busy or self.phase is not Phase.READY or self._idle is not None:
            return
        self._idle = asyncio.get_running_loop().call_later(self._settings.idle_engine_s, self._fall_asleep)

    def _fall_asleep(self) -> None:
        self._idle = None
        if self.phase is Phase.READY and not self._queue and not self._current:
            log.info("engine idle for %g s: asleep", self._settings.idle_engine_s)
            self._end_child()
            self._set_phase(Phase.ASLEEP)

    def _end_child(self) -> None:
        child, self._child = self._child, None
        self._watch(None)
        if child is not None:
            child.kill()

    def _set_phase(self, phase: Phase) -> None:
        self.phase = phase
        self._metrics.engine_state.state(phase)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    """From the reader thread to the loop; a loop that is closed has nobody left to tell."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(partial(function, *arguments))
