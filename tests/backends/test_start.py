"""Asking Fair again after a fault: which questions, how often and for how long, on a clock that the test moves."""

import logging
import socket
from typing import Any, NoReturn

import pytest

from backends.start import FaultWindow, Start, Stopwatch, Timing
from errors import FairError
from fair_api.transport import send
from tests.support.hostile_server import Line, Received, hostile_server


class Clock:
    """Goes on when somebody sleeps, and when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Fair:
    """Answers when its faults are used up; each answer takes `takes_s` by the clock."""

    def __init__(self, clock: Clock, *faults: FairError, takes_s: float = 0.0) -> None:
        self.clock, self.faults, self.takes_s = clock, list(faults), takes_s
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        self.clock.now += self.takes_s
        if self.faults:
            raise self.faults.pop(0)
        return "answer"


def fault(**options: Any) -> FairError:
    return FairError(tried="ask", came_back="nothing", next_step="Look.", **options)


def start(clock: Clock, told: list[str], timeout_s: float = 300.0) -> Start:
    return Start(told.append, Timing(timeout_s=timeout_s), clock=clock, sleep=clock.sleep)


def test_a_stopwatch() -> None:
    """It shows for how long something was observed without a break."""
    clock = Clock()
    stopwatch = Stopwatch(clock)
    assert stopwatch.seconds == 0
    for holds, after_s, seconds in ((True, 2, 2), (True, 3, 5), (False, 3, 0), (True, 1, 1)):
        stopwatch.observe(holds)
        clock.now += after_s
        assert stopwatch.seconds == seconds


@pytest.mark.parametrize("status", [None, 500, 502, 503])
def test_faults_pass(status: int | None, caplog: pytest.LogCaptureFixture) -> None:
    """Fair may fail for a while, which is logged once; what lasts is raised; an answer makes it begin anew."""
    clock = Clock()
    window = FaultWindow(30, clock)
    fair = Fair(clock, *[fault(status=status) for _ in range(3)], takes_s=10)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert window.ask(fair) is None
    assert len([record for record in caplog.records if record.name == "backends.start"]) == 1
    assert window.last is not None
    assert window.ask(fair) == "answer"
    assert window.last is None
    fair.faults = [fault(status=status), fault(status=status)]
    window.ask(fair)
    clock.now += 31
    with pytest.raises(FairError):
        window.ask(fair)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404])
def test_a_refusal_is_no_passing_fault(status: int) -> None:
    """What Fair refuses it will refuse again: that is raised at once."""
    clock = Clock()
    with pytest.raises(FairError):
        FaultWindow(30, clock).ask(Fair(clock, fault(status=status)))


def test_a_short_fault_is_not_told() -> None:
    """What is over within a second is nothing to tell; an answer of None is one."""
    clock, told = Clock(), list[str]()
    fair = Fair(clock, fault(), fault(status=502))
    assert start(clock, told).ask(fair) == "answer"
    assert start(clock, told).ask(lambda: None) is None
    assert (fair.asked, told) == (3, [])


def test_what_takes_longer_is_told() -> None:
    """After a second it is said that Fair does not answer, and when it does, what goes on again."""
    clock, told = Clock(), list[str]()
    asking = start(clock, told)
    asking.tell("Signing in")
    assert asking.ask(Fair(clock, *[fault() for _ in range(8)])) == "answer"
    assert list(dict.fromkeys(told)) == [
        "Signing in",
        "What wakes the machine that draws does not answer just now: asking again",
    ]
    assert told[-1] == "Signing in"


@pytest.mark.parametrize("takes_s", [0.0, 10.0])
@pytest.mark.parametrize(("away_s", "answered"), [(29.0, True), (45.0, False)])
def test_half_a_minute(takes_s: float, away_s: float, answered: bool) -> None:
    """Fair may be away for 30 s, whether it refuses at once or lets us wait; the last fault is the error."""
    clock, told = Clock(), list[str]()
    back_at = clock.now + away_s

    def question() -> str:
        asked_at = clock.now
        if asked_at >= back_at:
            return "answer"
        clock.now += takes_s
        raise fault(status=503)

    asking = start(clock, told)
    if answered:
        assert asking.ask(question) == "answer"
    else:
        with pytest.raises(FairError):
            asking.ask(question)
        assert clock.now <= 100 + 30 + 3 * takes_s + 1


def test_the_deadline() -> None:
    """At the deadline of the start nothing is asked again."""
    clock = Clock()
    fair = Fair(clock, *[fault() for _ in range(100)])
    with pytest.raises(FairError):
        start(clock, [], timeout_s=5).ask(fair)
    assert clock.now <= 106
    assert 2 < fair.asked < 20


@pytest.mark.parametrize("refusal", [fault(status=401), fault(status=404), fault(lasting=True)])
def test_a_refusal(refusal: FairError) -> None:
    """What Fair would refuse again, and what waiting does not help against, is told at once."""
    clock = Clock()
    fair = Fair(clock, refusal)
    with pytest.raises(FairError):
        start(clock, []).ask(fair)
    with pytest.raises(FairError):
        FaultWindow(30, clock).ask(Fair(clock, refusal))
    assert fair.asked == 1


def test_what_may_have_reached_fair() -> None:
    """What must not be done twice is repeated only as long as it has surely not reached Fair."""
    clock = Clock()
    fair = Fair(clock, fault(unsent=True), fault(unsent=True), fault())
    with pytest.raises(FairError) as told:
        start(clock, []).ask(fair, only_unsent=True)
    assert not told.value.unsent
    assert fair.asked == 3


def test_what_has_surely_not_reached_fair(closed_port: int) -> None:
    """A refused connection has carried nothing; one that is cut, or silent, may have."""
    with pytest.raises(FairError) as told:
        send("put", f"http://127.0.0.1:{closed_port}/x", tried="put", timeout_s=60)
    assert (told.value.unsent, told.value.may_pass) == (True, True)

    def cut(line: Line, request: Received) -> None:
        """Answers nothing."""

    def silent(line: Line, request: Received) -> None:
        line.say_nothing()

    for script, timeout_s in ((cut, 60.0), (silent, 0.2)):
        with hostile_server(script) as server, pytest.raises(FairError) as told:
            send("put", f"{server.url}/x", tried="put", timeout_s=timeout_s)
        assert (told.value.unsent, told.value.may_pass) == (False, True)


@pytest.mark.parametrize(("number", "passes"), [(socket.EAI_NONAME, False), (socket.EAI_AGAIN, True)])
def test_a_name_that_nobody_knows(number: int, passes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo in Fair's address is told at once; a name server that does not answer may do so in a moment."""

    def unknown(*args: Any, **options: Any) -> NoReturn:
        raise socket.gaierror(number, "no")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(FairError) as told:
        send("get", "https://fiar.example.org/x", tried="get", timeout_s=60)
    assert (told.value.unsent, told.value.may_pass) == (True, passes)
