"""How long something has gone on, and for how long a fault of Fair's is taken for one that passes."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from errors import FairError

log = logging.getLogger(__name__)

HICCUPS_S = 30.0
_TOLD_AFTER_S = 1.0
_T = TypeVar("_T")


class Stopwatch:
    """For how long something has held without a break."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None

    def observe(self, holds: bool) -> None:
        """Takes down whether it holds now."""
        if not holds:
            self._since = None
        elif self._since is None:
            self._since = self._clock()

    @property
    def seconds(self) -> float:
        """For how long it has held; 0 if it did not when last observed."""
        return 0.0 if self._since is None else self._clock() - self._since


class FaultWindow:
    """Faults of Fair's while something else is waited for: they end the wait only when they last `tolerated_s` seconds.

    `last`: the fault under way, None while Fair answers.
    """

    def __init__(self, tolerated_s: float = HICCUPS_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.last: FairError | None = None
        self._tolerated_s = tolerated_s
        self._clock = clock
        self._spell = Stopwatch(clock)

    def ask(self, question: Callable[[], _T]) -> _T | None:
        """The answer; None for a fault that may pass.

        Raises: FairError, the fault itself, if it is a refusal or if there was nothing else for too long.
        """
        asked_at = self._clock()
        try:
            answer = question()
        except FairError as error:
            self.forgive(error, took_s=self._clock() - asked_at)
            return None
        self.over()
        return answer

    def forgive(self, error: FairError, *, took_s: float = 0.0) -> None:
        """Lets a fault pass. `took_s`: for how long it was waited for; what was asked in time counts as in time.

        Raises: FairError, the fault itself, if it is a refusal or if there was nothing else for too long.
        """
        self._spell.observe(True)
        if not error.may_pass or self._spell.seconds - took_s > self._tolerated_s:
            raise error
        if self.last is None:
            log.warning("waiting on although Fair cannot be asked just now: %s", error)
        self.last = error

    def over(self) -> None:
        """Fair has answered."""
        self._spell.observe(False)
        self.last = None


class RetryPolicy:
    """A start's patience with Fair: what may be asked twice is asked again until it is answered, see `FaultWindow`.

    `timeout_s`: how long the start may take from now on; nothing is asked again after that. `tell` hears of what takes
    longer than a second, and after it of what goes on again; the start's own stages are told by `tell` of this class.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        *,
        timeout_s: float,
        tolerated_s: float = HICCUPS_S,
        pause_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.deadline = clock() + timeout_s  # by that clock
        self._tell = tell
        self._tolerated_s = tolerated_s
        self._pause_s = pause_s
        self._clock = clock
        self._sleep = sleep
        self._stage = ""

    @property
    def left_s(self) -> float:
        """Seconds until the start's deadline; below 0 after it."""
        return self.deadline - self._clock()

    def tell(self, stage: str) -> None:
        """Tells a stage of the start."""
        self._stage = stage
        self._tell(stage)

    def ask(self, question: Callable[[], _T], *, only_unsent: bool = False) -> _T:
        """The answer, whenever it comes. `only_unsent`: it is repeated only if it has surely not reached Fair.

        Raises: FairError, the last fault, if it is a refusal, if it lasts too long, or at the deadline.
        """
        hiccups, began_at = FaultWindow(self._tolerated_s, self._clock), self._clock()
        while True:
            asked_at = self._clock()
            try:
                answer = question()
            except FairError as error:
                if only_unsent and not error.unsent:
                    raise
                hiccups.forgive(error, took_s=self._clock() - asked_at)
                if self.left_s <= 0:
                    raise
            else:
                if hiccups.last and self._stage:
                    self._tell(self._stage)
                return answer
            if self._clock() - began_at > _TOLD_AFTER_S:
                self._tell("Fair does not answer just now: asking again")
            self._sleep(min(self._pause_s, max(0.0, self.left_s)))
