"""Runs one start at a time for the whole process, however many threads ask; pauses longer after each failure."""

import contextvars
import logging
import threading
import time
from collections.abc import Callable

from drawing.events import Tell, Waking
from errors import JobCancelledError, StartError

log = logging.getLogger(__name__)

PAUSE_MAX_S = 60.0


class _Flight:
    """One run of the work. `pause_s`: the pause before it; `stage`: what it does now; `heard_s`: when it last told
    that; `error`: how it failed.
    """

    def __init__(self, pause_s: float) -> None:
        self.pause_s = pause_s
        self.stage = ""
        self.heard_s = time.monotonic()
        self.done = False
        self.error: Exception | None = None


class SingleFlight:
    """Runs `work(tell)` in its own thread; all who join meanwhile wait for that same run.

    `work` gets a function that takes the stage as a short sentence. After a failure the next run begins with a pause:
    1 s, doubled with each further failure, 60 s at most; a success ends that. `overrun_s`: how long the work may take
    to notice that its time is over.
    """

    def __init__(
        self,
        work: Callable[[Callable[[str], None]], None],
        *,
        name: str,
        overrun_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._work = work
        self._name = name
        self._overrun_s = overrun_s
        self._clock = clock
        self._sleep = sleep
        self._changed = threading.Condition()
        self._flight: _Flight | None = None
        self._failures = 0
        self._not_before = 0.0

    def join(self, tell: Tell, cancelled: Callable[[], bool], *, timeout_s: float) -> None:
        """Returns once the work is done. Starts it unless it is under way, or `cancelled()` already.

        `timeout_s`: how long the work itself may take, in seconds. Its own error for that comes first: it knows more.
        Raises: what the work raised, JobCancelledError as soon as `cancelled()` says so (the work goes on), StartError
        when it is not done and has told nothing for as long as its time, the pause before it and `overrun_s`.
        """
        with self._changed:
            flight = self._flight
            if flight is None:
                if cancelled():
                    raise JobCancelledError()
                flight = self._take_off()
        joined_s = time.monotonic()
        told = ""
        while True:
            with self._changed:
                if not flight.done and flight.stage == told:
                    self._changed.wait(timeout=0.25)
                done, stage = flight.done, flight.stage
            if stage != told:
                tell(Waking(stage))
                told = stage
            if cancelled():
                raise JobCancelledError()
            if done:
                break
            silent_s = time.monotonic() - max(joined_s, flight.heard_s)
            if silent_s > flight.pause_s + timeout_s + self._overrun_s:
                raise StartError(
                    self._name,
                    tried=f"get everything ready within {timeout_s:g} s",
                    came_back=f"it is still at: {stage}",
                    next_step="Try again in a minute; START_TIMEOUT_S sets this deadline.",
                )
        if flight.error:
            raise flight.error

    def _take_off(self) -> _Flight:
        pause_s = max(0.0, self._not_before - self._clock()) if self._failures else 0.0
        flight = _Flight(pause_s)
        context = contextvars.copy_context()  # so that the log lines of a start carry the job that began it
        try:
            threading.Thread(target=context.run, args=(self._run, flight), name=self._name, daemon=True).start()
        except RuntimeError as error:  # else all who come after would wait for a run that never began
            raise StartError(
                self._name, tried="begin", came_back=f"there is no thread for it ({error})", next_step="Try again."
            ) from error
        self._flight = flight
        return flight

    def _run(self, flight: _Flight) -> None:
        def tell(stage: str) -> None:
            flight.heard_s = time.monotonic()
            if stage == flight.stage:
                return
            log.info("%s: %s", self._name, stage)
            with self._changed:
                flight.stage = stage
                self._changed.notify_all()

        try:
            if flight.pause_s > 0:
                tell(f"The last start failed: waiting {flight.pause_s:.0f} s before the next try")
                self._sleep(flight.pause_s)
            self._work(tell)
        except Exception as error:  # told to all who wait
            log.warning("%s failed: %s", self._name, error)
            flight.error = error
        except BaseException as error:  # this thread ends here anyway; those who wait must not take it for a success
            flight.error = StartError(
                self._name, tried="get ready", came_back=f"{type(error).__name__} was raised", next_step="See the log."
            )
        finally:
            self._land(flight)

    def _land(self, flight: _Flight) -> None:
        with self._changed:
            self._failures = self._failures + 1 if flight.error else 0
            self._not_before = self._clock() + min(PAUSE_MAX_S, 2.0 ** min(self._failures - 1, 10))
            flight.done = True
            self._flight = None
            self._changed.notify_all()
