"""Whose drawing is next: visitors take turns, however many drawings each of them has asked for.

The inference server's queue is first come, first served, so a drawing is sent to it only when there is a place for it.
Who then comes first is decided by virtual time, as in start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996):
the drawings of one visitor are one unit apart, and a newcomer begins at the current time. So a visitor waits for at
most one drawing of each other one. The time moves on with every drawing, for those who wait for their second one must
not be passed by newcomers for ever.
"""

import itertools
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from drawing.events import Queued, Step, Tell, Waking
from errors import BusyError, JobCancelledError

_PASSED_BY_AT_MOST = 8  # newcomers, by the second drawing of a visitor who has had one
_NEARLY_DONE = 0.75  # from this part of its steps on the next drawing is sent: the server then has it in time
_LOOK_AGAIN_S = 5.0  # the server's room may have grown, without a word to those who wait here
_MEASURED = 20  # the newest drawings, from which the time in line is told


class Turn:
    """The place of one drawing in line, and at the server once it is its turn."""

    def __init__(self, turns: "Turns", visitor: str, tag: float, number: int) -> None:
        self.visitor = visitor
        self.order = (tag, number)
        self.asked_at = time.monotonic()
        self.taken_at: float | None = None
        self.nearly_done = False
        self.go = threading.Event()
        self.tell: Tell = _nobody
        self.wanted: Callable[[], bool] = lambda: True
        self.dropped = False
        self._turns = turns

    @contextmanager
    def taken(self, tell: Tell, cancelled: Callable[[], bool]) -> Iterator[Tell]:
        """Waits in line, telling the place; inside, the drawing may be sent, and what it tells goes through the Tell.

        Raises: JobCancelledError.
        """
        self.tell = tell
        self._turns.wait(self, cancelled)
        try:
            yield self._tell_at_the_server
        finally:
            self._turns.give_back(self)

    def leave(self) -> None:
        """The drawing has ended, whatever came of it."""
        self._turns.leave(self)

    def _tell_at_the_server(self, event: Waking | Queued | Step) -> None:
        if isinstance(event, Queued) and event.about_s is None:  # the server does not tell how long its line takes
            event = replace(event, about_s=_about(self._turns.wait_s(event.place)))
        self.tell(event)
        self._turns.note(self, event)


class Turns:
    """The line in front of one place that draws. Every method may be called from any thread.

    `room`: how many drawings it makes side by side; asked often. `waiting_max`: drawings that one visitor may have
    under way, 0 for any number.
    """

    def __init__(self, room: Callable[[], int], *, waiting_max: int = 0) -> None:
        self._room = room
        self._waiting_max = waiting_max
        self._lock = threading.RLock()
        self._numbers = itertools.count()
        self._now = 0.0  # virtual time, in drawings
        self._finish: dict[str, float] = {}  # per visitor: where the next drawing may begin
        self._under_way: Counter[str] = Counter()
        self._waiting: list[Turn] = []
        self._taken: list[Turn] = []
        self._measured_s: deque[float] = deque(maxlen=_MEASURED)
        self._looked_at = time.monotonic()

    def ask(self, visitor: str) -> Turn:
        """Gets a drawing of `visitor` its place; `Turn.leave` has to follow.

        Raises: BusyError when the visitor has `waiting_max` under way.
        """
        with self._lock:
            count = self._under_way[visitor]
            if self._waiting_max and count >= self._waiting_max:
                raise BusyError(f"{count} of your pictures are still to be drawn, and that is the most at a time.")
            tag = max(self._now, self._finish.get(visitor, 0.0))
            if not count:  # just within one unit, where each other visitor has one drawing
                tag = min(tag, self._now + 1 - 1 / (2 * _PASSED_BY_AT_MOST))
            self._finish[visitor] = tag + 1
            self._under_way[visitor] += 1
            return Turn(self, visitor, tag, next(self._numbers))

    def wait(self, turn: Turn, cancelled: Callable[[], bool]) -> None:
        """Returns once the turn is there. Raises: JobCancelledError."""
        turn.go.clear()
        with self._lock:
            self._waiting.append(turn)
            self._waiting.sort(key=lambda one: one.order)
            self._hand_out()
        while True:
            turn.go.wait(_LOOK_AGAIN_S)
            with self._lock:
                turn.go.clear()
                if turn.dropped or cancelled():
                    self._forget(turn)
                    raise JobCancelledError()
                if turn not in self._taken and time.monotonic() - self._looked_at > _LOOK_AGAIN_S:
                    self._hand_out()
                if turn in self._taken:
                    return

    def give_back(self, turn: Turn) -> None:
        """The server has nothing to do with this drawing any more."""
        with self._lock:
            if turn.taken_at is not None and turn.nearly_done:
                self._measured_s.append(time.monotonic() - turn.taken_at)
            self._forget(turn)

    def leave(self, turn: Turn) -> None:
        """Takes a drawing that has ended out of the books."""
        with self._lock:
            self._under_way[turn.visitor] -= 1
            if self._under_way[turn.visitor] <= 0:
                del self._under_way[turn.visitor]
            self._forget(turn)
            if not self._under_way:  # nobody is there to be compared with
                self._now = 0.0
                self._finish.clear()

    def note(self, turn: Turn, event: Waking | Queued | Step) -> None:
        """The server has told this of a drawing that it has. A cold start concerns those in line, too."""
        with self._lock:
            if isinstance(event, Step):
                turn.taken_at = turn.taken_at or time.monotonic()
                if not turn.nearly_done and event.step >= _NEARLY_DONE * event.num_inference_steps:
                    turn.nearly_done = True
                    self._hand_out()
            elif isinstance(event, Waking):
                for waiting in self._waiting:
                    waiting.tell(event)

    def wait_s(self, place: int) -> float | None:
        """Seconds until that place in line is drawn, as measured lately; None: nothing was measured yet."""
        room = max(1, self._room())
        with self._lock:
            return self._waits_s(room)(place)

    def _waits_s(self, room: int) -> Callable[[int], float | None]:
        """`wait_s` as it is now: hundreds may wait, and the place that draws is asked for its room once."""
        if not self._measured_s:
            return lambda place: None
        each_s = sum(self._measured_s) / len(self._measured_s)
        now = time.monotonic()
        left_s = [max(0.0, each_s - (now - turn.taken_at)) for turn in self._taken if turn.taken_at is not None]
        next_s = min(left_s, default=each_s if self._taken else 0.0)
        return lambda place: next_s + (place - 1) * each_s / room

    def _forget(self, turn: Turn) -> None:
        if turn in self._waiting:
            self._waiting.remove(turn)
        if turn in self._taken:
            self._taken.remove(turn)
            turn.taken_at, turn.nearly_done = None, False
        self._hand_out()

    def _hand_out(self) -> None:
        """Lets as many go as the server has places for, and tells the others theirs."""
        room = max(1, self._room())
        self._looked_at = time.monotonic()
        while self._waiting and sum(not turn.nearly_done for turn in self._taken) < room:
            turn = self._waiting.pop(0)
            if turn.wanted():
                self._taken.append(turn)
                self._move_on(turn)
            else:
                turn.dropped = True
            turn.go.set()
        wait_s = self._waits_s(room)
        for place, turn in enumerate(self._waiting, 1):
            turn.tell(Queued(place, _about(wait_s(place))))

    def _move_on(self, turn: Turn) -> None:
        """The virtual time after this drawing's turn: never behind it, and never beyond who is next."""
        moved = max(self._now, turn.order[0]) + 1 / _PASSED_BY_AT_MOST
        self._now = max(self._now, min([moved, *(waiting.order[0] for waiting in self._waiting[:1])]))
        if len(self._finish) > 1000:
            self._finish = {
                visitor: tag for visitor, tag in self._finish.items() if tag > self._now or self._under_way[visitor]
            }


def _about(seconds: float | None) -> float | None:
    """Rounded to what a visitor can use, so that not every moment brings another number."""
    if seconds is None:
        return None
    unit = next(unit for unit, up_to in ((1, 10), (5, 60), (30, 600), (300, math.inf)) if seconds < up_to)
    return float(max(1, math.ceil(seconds / unit) * unit))


def _nobody(event: Waking | Queued | Step) -> None:
    """Nobody is told anything before a drawing waits."""
