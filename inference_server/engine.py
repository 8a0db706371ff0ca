"""The engine as the routes see it: `submit(request) -> Ticket`, `cancel(ticket)`, and what it offers.

It owns its queue and its loop: whether requests run alone or share steps is its business. A drawing whose engine
process died is drawn once more, then refused.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from inference_server import errors
from inference_server.drawings import Current, Finished
from inference_server.engine_child import EngineChild
from inference_server.errors import Refusal
from inference_server.keeper import STEP_DEADLINE_S, Keeper, Phase
from inference_server.limits import Defaults, Limits, LimitsOverride, defaults_of_model, of_model
from inference_server.messages import (
    Batch,
    Cancel,
    Cancelled,
    Capacity,
    Draw,
    DrawFailed,
    Drawn,
    FromEngine,
    LoadFailed,
    ModelFacts,
    Ready,
    Stage,
    Step,
)
from inference_server.metrics import Metrics
from inference_server.resolve import Offer, Resolved, resolve
from inference_server.tickets import Outcome, Progress, Queued, Ticket, Waking
from inference_server.wire import PictureRequest

log = logging.getLogger("inference_server.engine")
MAX_ATTEMPTS = 2


@dataclass(frozen=True)
class EngineSettings:
    """What the engine needs to know of the configuration."""

    model_name: str
    override: LimitsOverride
    lenient: bool
    idle_engine_s: float  # 0 = never asleep


class Engine:
    """Belongs to the event loop's thread. One drawing at a time, in the order of their coming."""

    def __init__(
        self,
        settings: EngineSettings,
        start_child: Callable[[], EngineChild],
        answer: Callable[[Finished], bytes],
        metrics: Metrics,
    ) -> None:
        self._settings, self._answer, self._metrics = settings, answer, metrics
        self._keeper = Keeper(start_child, self)
        self._facts: ModelFacts | None = None
        self._limits: Limits = settings.override.over(Limits())
        self._defaults: Defaults | None = None
        self._queue: deque[Ticket] = deque()
        self._current: Current | None = None
        self._number = 0
        self._answering: set[asyncio.Task[None]] = set()
        self._idle: asyncio.TimerHandle | None = None
        self._closed = False

    # What the server asks

    @property
    def offer(self) -> Offer:
        settings = self._settings
        return Offer(settings.model_name, self._limits, self._facts, self._defaults, settings.lenient)

    @property
    def phase(self) -> Phase:
        return self._keeper.phase

    @property
    def reason(self) -> str:
        """Why the model is not loaded; empty unless it failed."""
        return self._keeper.reason if self.phase is Phase.FAILED else ""

    @property
    def busy(self) -> bool:
        """Whether anything is drawn, waits or is being encoded."""
        return bool(self._queue or self._current or self._answering)

    def start(self, child: EngineChild) -> None:
        """Takes over the engine process that was started with the server."""
        self._keeper.start(child)

    def submit(self, request: PictureRequest) -> Ticket:
        """Puts a request in the queue and wakes the engine if need be.

        Raises: Refusal, when too many wait, the model cannot be loaded or the server is ending.
        """
        if self._closed:
            raise errors.shutting_down()
        must_wait = self._current is not None or self.phase is not Phase.READY
        if must_wait and len(self._queue) >= self._limits.waiting_requests.max:
            raise errors.busy(len(self._queue))
        if self.phase is Phase.FAILED and (pause_s := self._keeper.retry_s - time.monotonic()) > 0:
            raise errors.model_not_loaded(self.reason, max(1, round(pause_s)))
        ticket = Ticket(request)
        self._queue.append(ticket)
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self.phase in (Phase.ASLEEP, Phase.FAILED):
            self._keeper.start()
        self._next()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Ends a request: at once while it waits, at the next step while it is drawn."""
        if ticket.outcome is not None:
            return
        if ticket in self._queue:
            self._queue.remove(ticket)
        elif self._current is not None and self._current.ticket is ticket:
            self._keeper.send(Cancel(self._current.number))
        ticket.refuse(errors.cancelled())
        self._tell_waiting()
        self._watch_idleness()

    def close(self) -> None:
        """Ends the engine process and everything that waits for it."""
        self._closed = True
        self._keeper.end()
        waiting = [*self._queue, *([self._current.ticket] if self._current else [])]
        self._queue.clear()
        self._current = None
        for ticket in waiting:
            ticket.refuse(errors.shutting_down())

    # What the keeper tells

    def on_phase(self, phase: Phase) -> None:
        self._metrics.engine_state.state(phase.value)
        self._tell_waiting()

    def on_stage(self) -> None:
        self._tell_waiting()

    def on_ready(self, facts: ModelFacts) -> None:
        self._limits = self._settings.override.over(of_model(facts))
        self._facts, self._defaults = facts, defaults_of_model(facts, self._limits)
        self._next()
        self._watch_idleness()

    def on_failed(self, reason: str, pause_s: int) -> None:
        waiting, self._queue = self._queue, deque()
        for ticket in waiting:
            ticket.refuse(errors.model_not_loaded(reason, pause_s))

    def on_lost(self, reason: str) -> bool:
        self._metrics.engine_crashes.inc()
        current, self._current = self._current, None
        if current is not None and current.ticket.outcome is None:
            if current.ticket.attempts < MAX_ATTEMPTS:
                self._queue.appendleft(current.ticket)
            else:
                current.ticket.refuse(errors.engine_crashed(reason))
        return current is not None or bool(self._queue)

    def on_drawing_message(self, message: FromEngine) -> None:
        current = self._current
        if isinstance(message, Stage | Ready | LoadFailed | Batch | Capacity):
            return
        if current is None or message.number != current.number:
            return
        match message:
            case Step():
                self._on_step(current, message)
                return
            case Drawn():
                self._on_drawn(current, message)
            case DrawFailed(reason=reason):
                current.ticket.refuse(errors.cannot_draw(f"The model could not draw this: {reason}"))
            case Cancelled():
                current.ticket.refuse(errors.cancelled())
        self._current = None
        self._keeper.expect_word(None)
        self._next()
        self._watch_idleness()

    def _on_step(self, current: Current, message: Step) -> None:
        now_s = time.monotonic()
        self._metrics.step_seconds.observe(now_s - current.step_s)
        current.step_s = now_s
        if message.preview is not None:
            current.preview, current.preview_number = message.preview, current.preview_number + 1
        current.ticket.tell(Progress(message.step, message.num_steps, current.preview, current.preview_number))
        self._keeper.expect_word(STEP_DEADLINE_S)

    def _on_drawn(self, current: Current, message: Drawn) -> None:
        """Encodes on a worker thread, while the engine goes on with the next."""
        ticket = current.ticket
        if ticket.outcome is not None:
            return
        waited_s = ticket.started_s - ticket.submitted_s
        init_s = min(max(0.0, self._keeper.ready_s - ticket.submitted_s), waited_s)
        finished = Finished(
            request=ticket.request,
            resolved=current.resolved,
            images=message.images,
            init_ms=init_s * 1000,
            queue_ms=(waited_s - init_s) * 1000,
            inference_ms=message.inference_s * 1000,
        )
        task = asyncio.create_task(self._finish(ticket, finished))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _finish(self, ticket: Ticket, finished: Finished) -> None:
        try:
            body = await asyncio.to_thread(self._answer, finished)
        except Exception:
            log.exception("request %s: the picture could not be encoded", ticket.request.request_id)
            ticket.refuse(errors.cannot_draw("The picture was drawn but could not be encoded."))
        else:
            ticket.finish(Outcome(body))

    # The loop

    def _next(self) -> None:
        """Gives the engine its next drawing, if it is free and one waits."""
        while self.phase is Phase.READY and self._current is None and self._queue:
            ticket = self._queue.popleft()
            try:
                self._draw(ticket, resolve(ticket.request, self.offer))
            except Refusal as refusal:
                ticket.refuse(refusal)
        self._tell_waiting()

    def _draw(self, ticket: Ticket, resolved: Resolved) -> None:
        self._number += 1
        ticket.attempts += 1
        ticket.started_s = time.monotonic()
        self._current = Current(ticket, resolved, self._number, ticket.started_s)
        ticket.tell(Progress(0, resolved.drawing.num_inference_steps * len(resolved.drawing.seeds), None, 0))
        self._keeper.send(Draw(self._number, resolved.drawing))
        self._keeper.expect_word(STEP_DEADLINE_S)

    def _tell_waiting(self) -> None:
        self._metrics.waiting.set(len(self._queue))
        for place, ticket in enumerate(self._queue, 1):
            if self.phase is Phase.READY:
                ticket.tell(Queued(place))
            else:
                ticket.tell(Waking(self._keeper.stage, self._keeper.stage_since_s))

    def _watch_idleness(self) -> None:
        idle_s = self._settings.idle_engine_s
        if idle_s and self.phase is Phase.READY and self._idle is None and not self._queue and not self._current:
            self._idle = asyncio.get_running_loop().call_later(idle_s, self._fall_asleep)

    def _fall_asleep(self) -> None:
        self._idle = None
        if self.phase is Phase.READY and not self._queue and not self._current:
            log.info("engine idle for %g s: asleep", self._settings.idle_engine_s)
            self._keeper.sleep()
