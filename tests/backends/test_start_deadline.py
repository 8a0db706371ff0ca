"""The deadline of a start: what it covers, and that it is the one that START_TIMEOUT_S sets."""

import threading
import time

import pytest

from backends import base as backends
from backends import single_flight
from backends.fair_chain import FairChain
from backends.single_flight import SingleFlight
from backends.start import Timing
from drawing.events import Event
from errors import FairError, StartError
from fair_api.client import DeadlineFairClient
from fair_api.models import Program
from fair_services import ChainSettings
from tests.support.fair_fronts import client_of, logs_in
from tests.support.hostile_server import Line, Received, hostile_server
from tests.support.reconcile_bench import SECRET

PATIENT_S = 60  # what is waited for comes at once, except on a busy machine


def ignore(event: Event) -> None:
    """Tells nobody."""


def never() -> bool:
    return False


def test_the_last_word_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a start does not even notice that its time is over, the error names that time, without the slack."""
    monkeypatch.setattr(backends, "_OVERRUN_S", 0.1)
    over = threading.Event()

    def connect() -> DeadlineFairClient:
        assert over.wait(PATIENT_S)
        raise AssertionError

    chain = ChainSettings("home", "image", "me/space")
    backend = FairChain(chain, connect, secret=SECRET, kind="fair", timing=Timing(timeout_s=0.2))
    with pytest.raises(StartError, match=r"within 0\.2 s.*Signing in.*START_TIMEOUT_S sets this deadline"):
        backend.ensure(ignore, never)
    over.set()


def test_the_pause_before_a_start_is_none_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the next start waits after failures, its own time begins after that."""

    class Time:
        """The joiners' clock: the pauses make it go on, and nothing else does."""

        now = 0.0

        def monotonic(self) -> float:
            return self.now

    clock, fails = Time(), [True]
    monkeypatch.setattr(single_flight, "time", clock)

    def pause(seconds: float) -> None:
        clock.now += seconds

    def work(tell: object) -> None:
        if fails[0]:
            raise StartError("x", tried="y", came_back="z", next_step="w")

    flight = SingleFlight(work, name="test", clock=lambda: 0.0, sleep=pause)
    for _ in range(8):
        with pytest.raises(StartError, match="y, but z"):
            flight.join(ignore, never, timeout_s=1)
    assert clock.now > 60
    fails[0] = False
    flight.join(ignore, never, timeout_s=1)


def test_no_request_is_waited_for_beyond_it() -> None:
    """A request to Fair that is not answered ends with the start, a second later at most."""

    def silent(line: Line, request: Received) -> None:
        line.say_nothing(PATIENT_S)

    with hostile_server(logs_in(silent)) as server:
        fair = client_of(server.url, PATIENT_S)
        fair.until = time.monotonic()
        with pytest.raises(FairError, match="nothing came back within 1 s"):
            fair.status(Program("home", 1, 2))
