"""What all parts of one start share: the waits, the deadline, the stages it tells, how long Fair may not answer."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from errors import FairError

log = logging.getLogger(__name__)

TellStage = Callable[[str], None]
_TOLD_AFTER_S = 1.0
_PAUSE_S = 0.5
_T = TypeVar("_T")


@dataclass(frozen=True)
class Timing:
    """The waits of a start, in seconds."""

    timeout_s: float = 300.0  # the whole start
    silence_s: float = 10.0  # all runs but nothing answers: something is frozen
    fetching_s: float = 120.0  # the same where Fair cannot list containers: a node may still fetch an image
    client_after_s: float = 4.0  # there, the tunnel client is started when the public port stays closed for so long
    schedule_s: float = 30.0  # until a node has accepted a program
    stop_s: float = 30.0  # until a container has ended
    probe_s: float = 3.0  # one healthcheck
    poll_s: float = 0.05  # between two of them
    look_s: float = 0.5  # between two looks at what runs
    name_s: float = 5.0  # the endpoint's host name may be unknown
    fair_s: float = 30.0  # Fair may fail to answer
    fair_answer_s: float = 10.0  # one answer of a configured Fair's


class Stopwatch:
    """For how long something has held without a break."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None

    def observe(self, holds: bool) -> None:
        """Notes whether it holds now."""
        if not holds:
            self._since = None
        elif self._since is None:
            self._since = self._clock()

    @property
    def seconds(self) -> float:
        """For how long it has held; 0 if it did not when last observed."""
        return 0.0 if self._since is None else self._clock() - self._since


class FaultWindow:
    """Lets Fair's faults pass for `tolerated_s` seconds. `last`: the fault under way, None while Fair answers."""

    def __init__(self, tolerated_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.last: FairError | None = None
        self._tolerated_s = tolerated_s
        self._clock = clock
        self._faulty = Stopwatch(clock)

    def ask(self, question: Callable[[], _T]) -> _T | None:
        """The answer; None for a fault that may pass.

        Raises: FairError, the fault itself, if it is a refusal, or if faults have lasted too long when it is asked.
        """
        asked_at = self._clock()
        try:
            answer = question()
        except FairError as error:
            self._faulty.observe(True)
            took_s = self._clock() - asked_at  # what was asked in time counts as in time
            if not error.may_pass or self._faulty.seconds - took_s > self._tolerated_s:
                raise
            if self.last is None:
                log.warning("waiting on although Fair cannot be asked just now: %s", error)
            self.last = error
            return None
        self._faulty.observe(False)
        self.last = None
        return answer


class Start:
    """One start. `tell` hears its stages, and of a Fair that does not answer for longer than a second."""

    def __init__(
        self,
        tell: TellStage,
        timing: Timing,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.timing = timing
        self.deadline = clock() + timing.timeout_s  # by that clock
        self._tell = tell
        self._stage = ""
        self._clock = clock
        self._sleep = sleep
        self._faults = FaultWindow(timing.fair_s, clock)
        self._silent_since = clock()

    @property
    def left_s(self) -> float:
        """Seconds until the deadline; below 0 after it."""
        return self.deadline - self._clock()

    @property
    def silent_s(self) -> float:
        """Seconds since our server answered, or since something was started."""
        return self._clock() - self._silent_since

    @property
    def last_fault(self) -> FairError | None:
        """Why `ask_once` got no answer last; None if it got one."""
        return self._faults.last

    def tell(self, stage: str) -> None:
        """Tells a stage, a short sentence."""
        self._stage = stage
        self._tell(stage)

    def begin_anew(self) -> None:
        """Moves the deadline as far away as it was at the beginning: something long goes on as it should."""
        self.deadline = self._clock() + self.timing.timeout_s

    def end_silence(self) -> None:
        """Lets the silence begin anew: our server has answered, or something was started."""
        self._silent_since = self._clock()

    def ask_once(self, question: Callable[[], _T]) -> _T | None:
        """The answer; None for a fault of Fair's that may pass. See `FaultWindow.ask`."""
        return self._faults.ask(question)

    def ask(self, question: Callable[[], _T], *, only_unsent: bool = False) -> _T:
        """The answer; asks again until there is one. `only_unsent`: only while Fair cannot have heard the question.

        Raises: FairError, the last fault, if it is a refusal, if faults last too long, or at the deadline.
        """
        faults, began_at, told = FaultWindow(self.timing.fair_s, self._clock), self._clock(), False
        while True:
            answer = faults.ask(question)
            if faults.last is None:
                if told:
                    self._tell(self._stage)
                return cast(_T, answer)
            if (only_unsent and not faults.last.unsent) or self.left_s <= 0:
                raise faults.last
            if self._clock() - began_at > _TOLD_AFTER_S:
                self._tell("What wakes the machine that draws does not answer just now: asking again")
                told = True
            self._sleep(min(_PAUSE_S, max(0.0, self.left_s)))
