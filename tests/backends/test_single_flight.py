"""One run at a time, however many ask; a pause after a failure."""

import threading
import time
from collections.abc import Callable

import pytest

from backends import single_flight
from backends.single_flight import SingleFlight
from drawing import log_context
from drawing.events import Event, Waking
from drawing.log_context import job_context
from errors import JobCancelledError, StartError
from tests.support.processes import wait_until

TellStage = Callable[[str], None]
PATIENT_S = 60  # what is waited for comes at once, except on a busy machine


def never() -> bool:
    return False


def ignore(event: Event) -> None:
    """Tells nobody."""


class Gate:
    """Work that waits until it may go on, counts its runs, and fails as told."""

    def __init__(self) -> None:
        self.runs = 0
        self.began = threading.Event()
        self.open = threading.Event()
        self.error: Exception | None = None

    def work(self, tell: TellStage) -> None:
        self.runs += 1
        tell("looking")
        self.began.set()
        assert self.open.wait(PATIENT_S)
        if self.error:
            raise self.error
        tell("done")


def test_fifty_joiners_one_run() -> None:
    """Fifty who ask at once wait for one and the same run, and each is told its stages."""
    gate = Gate()
    flight = SingleFlight(gate.work, name="test")
    told: list[list[Event]] = [[] for _ in range(50)]
    joiners = [
        threading.Thread(target=flight.join, args=(heard.append, never), kwargs={"timeout_s": PATIENT_S})
        for heard in told
    ]
    for joiner in joiners:
        joiner.start()
    wait_until("all to be told the first stage", lambda: all(heard == [Waking("looking")] for heard in told))
    gate.open.set()
    for joiner in joiners:
        joiner.join(PATIENT_S)
    assert gate.runs == 1
    assert not any(joiner.is_alive() for joiner in joiners)
    assert all(heard[-1] == Waking("done") for heard in told)


def test_all_joiners_get_the_error() -> None:
    """A failure is raised to everyone who waits for that run."""
    gate = Gate()
    gate.error = StartError("x", tried="y", came_back="z", next_step="w")
    flight = SingleFlight(gate.work, name="test")
    failures: list[Exception] = []
    told: list[Event] = []

    def join() -> None:
        try:
            flight.join(told.append, never, timeout_s=PATIENT_S)
        except StartError as error:
            failures.append(error)

    joiners = [threading.Thread(target=join) for _ in range(20)]
    for joiner in joiners:
        joiner.start()
    wait_until("all to wait", lambda: len(told) == 20)
    gate.open.set()
    for joiner in joiners:
        joiner.join(PATIENT_S)
    assert len(failures) == 20
    assert gate.runs == 1


def test_after_a_success_the_next_is_a_new_run_at_once() -> None:
    """A call after the end starts another run, without a pause."""
    paused: list[float] = []
    gate = Gate()
    gate.open.set()
    flight = SingleFlight(gate.work, name="test", sleep=paused.append)
    for _ in range(3):
        flight.join(ignore, never, timeout_s=PATIENT_S)
    assert gate.runs == 3
    assert paused == []


def test_pause_after_a_failure() -> None:
    """After a failure the next run waits a second and says so; after a success there is no pause."""
    paused: list[float] = []
    may_go_on = threading.Event()

    def pause(seconds: float) -> None:
        paused.append(seconds)
        assert may_go_on.wait(PATIENT_S)

    gate = Gate()
    gate.open.set()
    gate.error = StartError("x", tried="y", came_back="z", next_step="w")
    flight = SingleFlight(gate.work, name="test", clock=lambda: 1000.0, sleep=pause)
    with pytest.raises(StartError):
        flight.join(ignore, never, timeout_s=PATIENT_S)
    gate.error = None
    told: list[Event] = []
    joiner = threading.Thread(target=flight.join, args=(told.append, never), kwargs={"timeout_s": PATIENT_S})
    joiner.start()
    wait_until("the pause to be told", lambda: told)
    assert "waiting 1 s" in str(told[0])
    assert gate.runs == 1
    may_go_on.set()
    joiner.join(PATIENT_S)
    flight.join(ignore, never, timeout_s=PATIENT_S)
    assert gate.runs == 3
    assert paused == [1.0]


def test_the_pause_grows_and_is_bounded() -> None:
    """Each further failure doubles the pause, up to a minute."""
    paused: list[float] = []
    gate = Gate()
    gate.open.set()
    gate.error = RuntimeError("no")
    clock = [1000.0]
    flight = SingleFlight(
        gate.work, name="test", clock=lambda: clock[0], sleep=lambda seconds: paused.append(round(seconds))
    )
    for _ in range(9):
        with pytest.raises(RuntimeError):
            flight.join(ignore, never, timeout_s=PATIENT_S)
    assert paused == [1, 2, 4, 8, 16, 32, 60, 60]
    assert single_flight.PAUSE_MAX_S == 60


def test_cancel_while_waiting() -> None:
    """A cancel ends the waiting of that one alone; the run and the others go on."""
    gate = Gate()
    flight = SingleFlight(gate.work, name="test")
    cancel = threading.Event()
    told: list[Event] = []
    ended: list[str] = []

    def join_cancelled() -> None:
        with pytest.raises(JobCancelledError):
            flight.join(ignore, cancel.is_set, timeout_s=PATIENT_S)
        ended.append("cancelled")

    other = threading.Thread(target=flight.join, args=(told.append, never), kwargs={"timeout_s": PATIENT_S})
    cancelled = threading.Thread(target=join_cancelled)
    other.start()
    cancelled.start()
    wait_until("the other to wait", lambda: told)  # else it may come when this run is over, and begin another
    cancel.set()
    cancelled.join(PATIENT_S)
    assert ended == ["cancelled"]
    assert other.is_alive()
    gate.open.set()
    other.join(PATIENT_S)
    assert not other.is_alive()
    assert gate.runs == 1


def test_deadline() -> None:
    """A joiner who waits no longer than its deadline gets an error that names the stage; the run goes on."""
    gate = Gate()
    flight = SingleFlight(gate.work, name="test")
    with pytest.raises(JobCancelledError):
        flight.join(ignore, gate.began.is_set, timeout_s=PATIENT_S)  # the run is at its stage when the time begins
    with pytest.raises(StartError, match="still at: looking"):
        flight.join(ignore, never, timeout_s=0.2)
    gate.open.set()
    flight.join(ignore, never, timeout_s=PATIENT_S)


def test_a_run_that_goes_on_telling_is_waited_for() -> None:
    """The deadline counts from the last word of the run: one that tells how far it is may take longer."""

    def work(tell: TellStage) -> None:
        for megabytes in range(8):
            tell(f"{megabytes} MB")
            time.sleep(0.1)

    begun = time.monotonic()
    SingleFlight(work, name="test").join(ignore, never, timeout_s=0.5)
    assert time.monotonic() - begun > 0.7


def test_log_lines_carry_the_job_that_began() -> None:
    """What is logged during a run carries the id of the job that began it."""
    seen: list[str] = []
    flight = SingleFlight(lambda tell: seen.append(log_context._job_id.get()), name="test")
    with job_context("job-1"):
        flight.join(ignore, never, timeout_s=PATIENT_S)
    flight.join(ignore, never, timeout_s=PATIENT_S)
    assert seen == ["job-1", "-"]


def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """When no thread can be started the joiner is told, and the next one finds no run that never ends."""
    gate = Gate()
    gate.open.set()
    flight = SingleFlight(gate.work, name="test")

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(StartError, match="thread"):
            flight.join(ignore, never, timeout_s=1)
    flight.join(ignore, never, timeout_s=PATIENT_S)
    assert gate.runs == 1


def test_errors_of_any_kind_end_the_run() -> None:
    """Even an exit of the work's thread is told as a failure, never as a success."""

    def work(tell: TellStage) -> None:
        raise SystemExit(1)

    flight = SingleFlight(work, name="test")
    with pytest.raises(StartError, match="SystemExit"):
        flight.join(ignore, never, timeout_s=PATIENT_S)
