"""Whose drawing is next: turns go round by visitor, and nobody waits for more than one picture of each other one."""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from drawing.events import Queued, Step, Waking
from drawing.turns import Turn, Turns
from errors import BusyError, JobCancelledError
from tests.support.processes import wait_until

Event = Waking | Queued | Step


class Line:
    """A line whose drawings end when the test says so; `drawn`: the visitors, in the order of their turns."""

    def __init__(self, room: int = 1, waiting_max: int = 0) -> None:
        self.room = room
        self.turns = Turns(lambda: self.room, waiting_max=waiting_max)
        self.drawn: list[str] = []
        self.told: dict[Turn, list[Event]] = {}
        self._drawing: list[tuple[Turn, threading.Event, threading.Thread]] = []
        self._tells: dict[Turn, list[object]] = {}

    def ask(self, visitor: str, *, wanted: bool = True) -> Turn:
        """A drawing of this visitor gets in line, and stands there when this returns, or is drawn."""
        turn, end, stands = self.turns.ask(visitor), threading.Event(), threading.Event()
        told = self.told[turn] = []
        turn.wanted = lambda: wanted

        def tell_here(event: Event) -> None:
            told.append(event)
            stands.set()

        def draw() -> None:
            try:
                with turn.taken(tell_here, lambda: False) as tell:
                    self._tells[turn] = [tell]
                    self.drawn.append(visitor)
                    stands.set()
                    end.wait(60)
            except JobCancelledError:
                stands.set()
            finally:
                turn.leave()

        thread = threading.Thread(target=draw, daemon=True)
        thread.start()
        assert stands.wait(60)
        self._drawing.append((turn, end, thread))
        return turn

    def says(self, turn: Turn, event: Event) -> None:
        """The server tells something of a drawing that it has."""
        self._tells[turn][0](event)  # type: ignore[operator]

    def end(self, turn: Turn) -> None:
        """The server has drawn it."""
        ((end, thread),) = [(end, thread) for one, end, thread in self._drawing if one is turn]
        end.set()
        thread.join(60)

    def end_all(self) -> None:
        """Nothing is left."""
        for _, end, _ in self._drawing:
            end.set()
        for _, _, thread in self._drawing:
            thread.join(60)

    def end_oldest(self) -> str:
        """The server has drawn what it had first; returns whose that was."""
        turn = next(turn for turn, end, _ in self._drawing if turn in self._tells and not end.is_set())
        before = len(self.drawn)
        waits = any(one not in self._tells for one, _, _ in self._drawing)
        self.end(turn)
        if waits:
            wait_until("the next turn", lambda: len(self.drawn) > before)
        return turn.visitor


@contextmanager
def line(room: int = 1) -> Iterator[Line]:
    made = Line(room)
    yield made
    made.end_all()


def test_ten_calls_and_a_visitor() -> None:
    """Who comes after ten drawings of one caller is drawn as soon as the first of them is done."""
    with line() as one:
        for _ in range(10):
            one.ask("caller")
        one.ask("visitor")
        one.end_oldest()
        assert one.drawn == ["caller", "visitor"]


def test_two_callers_take_turns() -> None:
    """Two who asked for many each are drawn in turn, however early one of them began."""
    with line() as one:
        for visitor in [*5 * ["a"], *5 * ["b"]]:
            one.ask(visitor)
        for _ in range(9):
            one.end_oldest()
        assert one.drawn == ["a", "b"] * 5


@pytest.mark.parametrize("seed", range(6))
def test_nobody_waits_for_two_of_another(seed: int) -> None:
    """Whoever comes when, between a visitor's asking and its turn no other begins more than one that is its next.

    A visitor who has a drawing before it counts from the end of that one.
    """
    rng = random.Random(seed)
    with line() as one:
        asked: list[tuple[str, int]] = []
        for _ in range(60):
            if rng.random() < 0.6:
                visitor = rng.choice("aaabbcdefgh")
                waits_already = any(
                    turn.visitor == visitor and turn not in one._tells for turn in one.told
                ) or visitor in [turn.visitor for turn in one.turns._taken]
                if not waits_already:
                    asked.append((visitor, len(one.drawn)))
                one.ask(visitor)
            elif any(turn in one._tells for turn in one.told) and one.turns._taken:
                one.end_oldest()
        while one.turns._waiting:
            one.end_oldest()
        for visitor, since in asked:
            until = one.drawn.index(visitor, since)
            assert max(Counter(one.drawn[since:until]).values(), default=0) <= 1, (visitor, one.drawn)


def test_a_long_line_asks_for_the_room_no_more_often() -> None:
    """A page's every request waits for the line's lock: what holds it is not to grow with those who wait."""
    asked: list[int] = []

    def room() -> int:
        asked.append(1)
        return 1

    turns, told = Turns(room), list[Event]()
    with turns.ask("first").taken(told.append, lambda: False) as tell:
        tell(Step(9, 10))
    for number in range(40):
        turns._waiting.append(turn := turns.ask(str(number)))
        turn.tell = told.append
    with turns._lock:
        asked.clear()
        told.clear()
        turns._hand_out()
    assert len(asked) == 1
    assert len([event for event in told if isinstance(event, Queued) and event.about_s]) == 39


def test_newcomers_do_not_starve_who_has_had_one() -> None:
    """A second drawing is not passed by newcomers without end."""
    with line() as one:
        one.ask("a")
        one.ask("a")
        for number in range(20):
            one.ask(f"new {number}")
            one.end_oldest()
        assert one.drawn.count("a") == 2


def test_no_more_are_sent_than_are_drawn() -> None:
    """The server gets as many as it draws side by side; one more when one of them is nearly done."""
    with line(room=2) as one:
        first, *_ = (one.ask(visitor) for visitor in "abcd")
        assert one.drawn == ["a", "b"]
        one.says(first, Step(10, 20))
        assert one.drawn == ["a", "b"]
        one.says(first, Step(15, 20))
        wait_until("the next to be sent", lambda: one.drawn == ["a", "b", "c"])
        one.end(first)
        assert one.drawn == ["a", "b", "c"]


def test_places_are_told_with_a_time_once_it_is_known() -> None:
    """A place in line comes without a time before anything was measured, and with one afterwards."""
    with line() as one:
        first, second, third = (one.ask(visitor) for visitor in "abc")
        assert one.told[third] == [Queued(2)]
        one.says(first, Step(20, 20))
        wait_until("the second to be sent", lambda: one.drawn == ["a", "b"])
        one.end(first)
        assert one.told[third][-1] == Queued(1, 1.0)
        assert one.told[second][-1] == Queued(1)


def test_the_place_at_the_server_comes_with_a_time_too() -> None:
    """A place in the server's own line, which it tells without a time, gets one from what was measured here."""
    with line() as one:
        first = one.ask("a")
        one.says(first, Step(20, 20))
        one.end(first)
        second = one.ask("b")
        one.says(second, Queued(1))
        assert one.told[second][-1] == Queued(1, 1.0)


def test_a_cold_start_is_told_to_those_in_line() -> None:
    """While the server wakes for the first one, the others hear of that, too."""
    with line() as one:
        first, second = one.ask("a"), one.ask("b")
        one.says(first, Waking("Loading the model"))
        assert one.told[second][-1] == Waking("Loading the model")


def test_what_nobody_waits_for_is_dropped() -> None:
    """A drawing whose caller has gone is not drawn when its turn comes, and takes nobody's time."""
    with line() as one:
        one.ask("a")
        one.ask("gone", wanted=False)
        one.ask("c")
        one.end_oldest()
        assert one.drawn == ["a", "c"]


def test_cancel_in_line() -> None:
    """A drawing that is cancelled in line leaves it at once, and the places behind it move up."""
    turns = Turns(lambda: 1)
    first, second, third = (turns.ask(visitor) for visitor in "abc")
    cancelled, ended, told = threading.Event(), threading.Event(), list[Event]()
    with first.taken(lambda event: None, lambda: False):

        def wait() -> None:
            with pytest.raises(JobCancelledError), second.taken(lambda event: None, cancelled.is_set):
                pass
            ended.set()

        def wait_behind() -> None:
            with third.taken(told.append, lambda: False):
                pass

        threads = [threading.Thread(target=task, daemon=True) for task in (wait, wait_behind)]
        threads[0].start()
        wait_until("the second to stand in line", lambda: second in turns._waiting)
        threads[1].start()
        wait_until("the third to know its place", lambda: told)
        cancelled.set()
        second.go.set()
        assert ended.wait(2)
        assert told == [Queued(2), Queued(1)]
    threads[1].join(60)


def test_a_visitor_has_so_many_at_a_time() -> None:
    """Beyond `waiting_max` one visitor is refused with `Busy:`, others are not, and an end makes room."""
    turns = Turns(lambda: 1, waiting_max=2)
    kept = [turns.ask("a") for _ in range(2)]
    with pytest.raises(BusyError, match=r"^Busy: 2 of your pictures"):
        turns.ask("a")
    turns.ask("b")
    kept[0].leave()
    turns.ask("a")
