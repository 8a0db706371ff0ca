"""A worker whose line breaks comes back: who draws meanwhile, and that nothing is drawn twice or for nobody."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

import endpoint_client
from backends import lost_drawings
from backends import workers as workers_module
from backends.workers import AWAY_FOR_A_MOMENT, BACK, Workers
from drawing.events import Waking
from drawing.models import GenerationRequest
from endpoint import worker_connection
from errors import AwayError, DrawingError, JobCancelledError, WorkerLostError
from inference_server import connect as worker_side
from inference_server import line_dial, space_connection
from inference_server.idempotency import REJOIN_S
from tests.support.processes import wait_until
from tests.support.worker_line import DEADLINE_S, KEY, Drawing, RawWorker, png, relay, space_side, worker
from text_to_image import TextToImage


def new_workers(wait_s: float = DEADLINE_S) -> Workers:
    return Workers(KEY, wait_s=wait_s)


def test_both_ends_speak_of_the_same_protocol() -> None:
    """Its numbers stand at both ends, which import nothing of each other: they agree, and the waits fit together."""
    assert (worker_connection.PROTOCOL, worker_connection.VERSION) == (
        space_connection.PROTOCOL,
        space_connection.VERSION,
    )
    assert worker_connection.LEASE_EVERY_S <= space_connection.BEAT_S
    assert space_connection.LEASE_S == lost_drawings.LEASE_S
    assert worker_connection.LEASE_EVERY_S < worker_side.SILENT_S < line_dial.PING_S + line_dial.PONG_S <= 15
    assert worker_connection.SILENCE_S <= 15
    assert lost_drawings.LEASE_S >= REJOIN_S, "a worker that the Space has lost goes on for so long"


def test_a_line_that_is_dead_for_both_ends_is_left_for_a_new_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Half open, as after a change of the uplink's address: long before either end's deadline the worker has dialled
    again, the Space ends the old line for it, and the picture comes, drawn once.
    """
    monkeypatch.setattr(worker_side, "SILENT_S", 0.3)
    with space_side(new_workers()) as space, relay(space.port) as line, worker(line.port) as box:
        box.app.may_finish.clear()
        drawing = Drawing(space.workers, 4)
        assert box.app.posts.acquire(timeout=DEADLINE_S)
        line.freeze_old()
        begun = time.monotonic()
        assert box.app.posts.acquire(timeout=DEADLINE_S)
        box.app.may_finish.set()
        assert drawing.result().encoded == png(4)
        assert time.monotonic() - begun < worker_connection.SILENCE_S / 2
        assert box.app.drawn == {"job-4": 1}
        assert "box1 is gone: it has dialled again" in caplog.text


def test_a_line_that_is_only_slow_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing comes, neither over the old line nor to the new one, both wait; then the old one goes on."""
    monkeypatch.setattr(worker_side, "SILENT_S", 0.3)
    monkeypatch.setattr(worker_connection, "LEASE_EVERY_S", 0.1)
    with space_side(new_workers()) as space, relay(space.port) as line, worker(line.port) as box:
        wait_until("the worker", lambda: not space.workers.status().away)
        monkeypatch.setattr(line, "_target_port", 9)  # whoever dials now is not let through
        line.hold()
        (first,) = space.workers._clients
        time.sleep(0.8)
        line.flow()
        assert Drawing(space.workers, 4).result().encoded == png(4)
        assert list(space.workers._clients) == [first]
        assert box.app.posted == ["job-4"]


def test_a_worker_goes_on_for_as_long_as_its_space_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Space tells it how long that is: all its wait if this is the only worker, else a lease's time."""
    monkeypatch.setattr(worker_connection, "LEASE_EVERY_S", 0.1)
    with space_side(new_workers(wait_s=60)) as space, worker(space.port) as box:
        wait_until("the first lease", lambda: 75 in box.app.kept_s)
        with worker(space.port, name="box2") as other:
            wait_until("the other one's", lambda: lost_drawings.LEASE_S in other.app.kept_s)


def test_the_visitor_reads_that_the_worker_is_back() -> None:
    """As soon as its line is there, before anything of the picture comes."""
    with space_side(new_workers()) as space:
        raw = RawWorker(space.port, instance="one")
        drawing = Drawing(space.workers, 1)
        raw.take()
        raw.close()
        wait_until("the wait", lambda: Waking(AWAY_FOR_A_MOMENT) in drawing.events)
        raw = RawWorker(space.port, instance="one")
        request = raw.take()
        assert drawing.events[-1] == Waking(BACK)
        raw.answer(request["id"], 1)
        assert drawing.result().encoded == png(1)
        raw.close()


def test_who_is_told_of_a_lost_worker_may_ask_for_the_status() -> None:
    """Nothing is told under the pool's lock: the line of visitors asks how much room there is when it hears of it."""
    told: list[str] = []

    def tell(event: object) -> None:
        asking = threading.Thread(target=space.workers.status, daemon=True)
        asking.start()
        asking.join(DEADLINE_S / 3)
        told.append("status" if not asking.is_alive() else "no answer")

    with space_side(new_workers()) as space:
        raw = RawWorker(space.port, instance="one")
        wait_until("the worker", lambda: not space.workers.status().away)
        draw = partial(space.workers.draw, GenerationRequest("a red apple", seed=1), job_id="job", tell=tell)
        for outcome in (WorkerLostError, None):
            drawing = ThreadPoolExecutor(1).submit(draw, cancelled=lambda: False)
            request = raw.take()
            if outcome is None:
                raw.answer(request["id"], 1)
                assert drawing.result(DEADLINE_S).encoded == png(1)
            else:
                raw.close()
                with pytest.raises(outcome):
                    drawing.result(DEADLINE_S)
                raw = RawWorker(space.port, instance="one")
                wait_until("it to be back", lambda: space.workers._best() is not None)
        raw.close()
    assert told == ["status"]


def test_who_waits_for_a_worker_may_ask_for_the_status() -> None:
    """Nor is anything told under the pool's lock while no worker is there."""
    told: list[Waking] = []

    def tell(event: object) -> None:
        assert isinstance(event, Waking)
        asking = threading.Thread(target=workers.status, daemon=True)
        asking.start()
        asking.join(DEADLINE_S / 3)
        assert not asking.is_alive()
        told.append(event)

    workers = new_workers()
    with pytest.raises(JobCancelledError):
        workers.ensure(tell, lambda: bool(told))
    assert told == [Waking(AWAY_FOR_A_MOMENT)]


def test_a_drawing_that_was_ended_as_it_was_asked_for_again_is_drawn_nevertheless() -> None:
    """A worker may be told to stop what nobody has asked for just as somebody does: no visitor cancelled that."""
    with space_side(new_workers()) as space:
        raw = RawWorker(space.port)
        job = TextToImage(space.workers).submit("a red apple", seed=1)
        raw.refuse(raw.take()["id"], "REQUEST_CANCELLED")
        raw.answer(raw.take()["id"], 1)
        assert job.result(DEADLINE_S).encoded == png(1)
        raw.close()


def test_no_other_worker_draws_what_one_may_still_be_drawing() -> None:
    """One that comes back gets its drawing again, also while another one has more room; the wait is told once."""
    with space_side(new_workers()) as space:
        first = RawWorker(space.port, "first", instance="one")
        wait_until("the first", lambda: len(space.workers._clients) == 1)
        drawing = Drawing(space.workers, 1)
        first.take()
        other = RawWorker(space.port, "other", instance="two")
        wait_until("both", lambda: len(space.workers._clients) == 2)
        first.close()
        wait_until("the wait", lambda: Waking(AWAY_FOR_A_MOMENT) in drawing.events)
        time.sleep(0.3)  # looked at three times
        first = RawWorker(space.port, "first", instance="one")
        first.answer(first.take()["id"], 1)
        assert drawing.result().encoded == png(1)
        assert drawing.events.count(Waking(AWAY_FOR_A_MOMENT)) == 1
        for raw in (first, other):
            raw.close()


def test_a_worker_that_was_started_anew_is_not_waited_for() -> None:
    """Its old process is no more: the drawing is asked for at once, of whoever has the most room."""
    with space_side(new_workers()) as space:
        raw = RawWorker(space.port, instance="one")
        drawing = Drawing(space.workers, 1)
        raw.take()
        raw.close()
        begun = time.monotonic()
        raw = RawWorker(space.port, instance="two")
        raw.answer(raw.take()["id"], 1)
        assert drawing.result().encoded == png(1)
        assert time.monotonic() - begun < lost_drawings.LEASE_S / 2
        raw.close()


def test_what_was_cancelled_while_its_worker_was_away_ends_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker goes on for a Space that may come back; of what nobody asks for again it is told to stop."""
    monkeypatch.setattr(workers_module, "LEASE_S", 0.2)
    with space_side(new_workers()) as space:
        raw = RawWorker(space.port, instance="one")
        drawing = Drawing(space.workers, 1)
        raw.take()
        raw.close()
        wait_until("the wait", lambda: Waking(AWAY_FOR_A_MOMENT) in drawing.events)
        drawing.cancelled.set()
        assert isinstance(drawing.result(), JobCancelledError)
        raw = RawWorker(space.port, instance="one")
        request = raw.hear("request")
        assert (request["method"], request["path"]) == ("DELETE", "/requests/job-1")
        raw.close()


def test_a_cancel_that_a_dead_line_swallowed_reaches_the_worker_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The line still passes for whole, but nothing comes over it: the worker is told again on its next one."""
    monkeypatch.setattr(workers_module, "LEASE_S", 0.2)
    monkeypatch.setattr(endpoint_client, "CANCEL_S", 0.1)
    with space_side(new_workers()) as space:
        silent = RawWorker(space.port, instance="one")
        drawing = Drawing(space.workers, 1)
        silent.take()
        drawing.cancelled.set()
        assert isinstance(drawing.result(), JobCancelledError)
        assert [worker.ended for worker in space.workers._clients] == [None]
        raw = RawWorker(space.port, instance="one")
        request = raw.hear("request")
        assert (request["method"], request["path"]) == ("DELETE", "/requests/job-1")
        for line in (silent, raw):
            line.close()


def test_a_line_that_breaks_often_ends_no_drawing() -> None:
    """More often than a service may fail: what bounds it is the time that a worker is waited for."""
    with space_side(new_workers()) as space:
        job = TextToImage(space.workers).submit("a red apple", seed=1)
        for _ in range(8):
            raw = RawWorker(space.port, instance="one")
            raw.take()
            raw.close()
        raw = RawWorker(space.port, instance="one")
        raw.answer(raw.take()["id"], 1)
        assert job.result(DEADLINE_S).encoded == png(1)
        raw.close()


def test_a_worker_that_does_not_come_back_is_not_waited_for_for_ever() -> None:
    """The drawing ends in a sentence once the wait is over."""
    with space_side(new_workers(wait_s=0.5)) as space:
        raw = RawWorker(space.port)
        job = TextToImage(space.workers).submit("a red apple", seed=1)
        raw.take()
        raw.close()
        with pytest.raises(AwayError, match="owner's machine is off"):
            job.result(DEADLINE_S)


def test_a_drawing_that_ends_every_worker_is_given_up() -> None:
    """It would go round for ever: five processes are enough."""
    with space_side(new_workers()) as space:
        job = TextToImage(space.workers).submit("a red apple", seed=1)
        for number in range(lost_drawings.PROCESSES_MAX):
            raw = RawWorker(space.port, instance=str(number))
            raw.take()
            raw.close()
        with pytest.raises(DrawingError, match="5 workers were lost"):
            job.result(DEADLINE_S)


def test_who_is_back_is_known_from_the_lines_first_request() -> None:
    """Before the worker has said a word on it: its drawing is asked for at once, and its old line, which may be dead,
    is left. How it is, it told before.
    """
    with space_side(new_workers()) as space:
        old = RawWorker(space.port, "box", instance="one")
        drawing = Drawing(space.workers, 1)
        old.take()
        new = RawWorker(space.port, "box", instance="one", early=True)
        request = new.hear("request")
        assert drawing.events[-1] == Waking(BACK)
        new.say(type="hello", protocol=worker_connection.PROTOCOL, version="0.1.0", name="box", instance="one")
        new.say(type="accepted", id=request["id"])
        new.answer(request["id"], 1)
        assert drawing.result().encoded == png(1)
        with pytest.raises(ConnectionClosedError, match="dialled again"):
            list(old.line)
        for raw in (old, new):
            raw.close()


def test_a_new_process_that_says_its_hello_early_is_asked_once_it_has_told_how_it_is() -> None:
    """Nobody knows before its first beat whether it draws."""
    with space_side(new_workers()) as space:
        raw = RawWorker(space.port, "box", instance="one", early=True)
        drawing = Drawing(space.workers, 1)
        time.sleep(0.3)
        assert space.workers.status().away
        raw.beat()
        raw.answer(raw.take()["id"], 1)
        assert drawing.result().encoded == png(1)
        raw.close()


@pytest.mark.parametrize("header", ["no JSON", "[]", "[" * 5000, '{"type": "beat"}'])
def test_an_early_hello_that_makes_no_sense_harms_nobody(header: str) -> None:
    """It is passed over, or its worker is sent away in a sentence; the next one draws."""
    with space_side(new_workers()) as space:
        headers = {"X-Worker-Key": KEY, "X-Worker-Hello": header}
        with connect(f"ws://127.0.0.1:{space.port}/worker", additional_headers=headers) as line:
            assert json.loads(line.recv(DEADLINE_S))["type"] == "hello"
        raw = RawWorker(space.port)
        drawing = Drawing(space.workers, 1)
        raw.answer(raw.take()["id"], 1)
        assert drawing.result().encoded == png(1)
        raw.close()


def test_the_worker_learns_that_its_picture_has_come() -> None:
    """Once, by the drawing's own id, after the whole of it; until then it keeps the picture."""
    with space_side(new_workers()) as space, worker(space.port) as box:
        box.app.may_finish.clear()
        drawing = Drawing(space.workers, 4)
        assert box.app.posts.acquire(timeout=DEADLINE_S)
        assert box.app.received == []
        box.app.may_finish.set()
        assert drawing.result().encoded == png(4)
        wait_until("the word", lambda: box.app.received == ["job-4"], DEADLINE_S)


def test_a_worker_that_said_goodbye_is_not_waited_for() -> None:
    """It ends: no other line of it comes, and what it had is drawn by another one at once."""
    with space_side(new_workers()) as space:
        leaving = RawWorker(space.port, "leaving", instance="one")
        drawing = Drawing(space.workers, 1)
        leaving.take()
        other = RawWorker(space.port, "other", instance="two")
        wait_until("both", lambda: len(space.workers._clients) == 2)
        begun = time.monotonic()
        leaving.say(type="leaving")
        wait_until("the goodbye", lambda: len([one for one in space.workers._clients if one.is_going]) == 1)
        leaving.close()
        other.answer(other.take()["id"], 1)
        assert drawing.result().encoded == png(1)
        assert time.monotonic() - begun < lost_drawings.LEASE_S / 2
        other.close()


def test_two_machines_of_one_name_are_two() -> None:
    """The other one's being there does not show that the lost one has stopped: it may still be drawing."""
    with space_side(new_workers()) as space:
        first = RawWorker(space.port, "box", instance="one")
        drawing = Drawing(space.workers, 1)
        first.take()
        other = RawWorker(space.port, "box", instance="two")
        wait_until("both", lambda: len(space.workers._clients) == 2)
        first.beat()
        wait_until(
            "to be heard",
            lambda: min(w.heard_s for w in space.workers._clients) > max(w.opened_s for w in space.workers._clients),
        )
        first.close()
        wait_until("the wait", lambda: Waking(AWAY_FOR_A_MOMENT) in drawing.events)
        time.sleep(0.3)
        assert all(worker.in_flight == 0 for worker in space.workers._clients)
        first = RawWorker(space.port, "box", instance="one")
        first.answer(first.take()["id"], 1)
        assert drawing.result().encoded == png(1)
        for raw in (first, other):
            raw.close()


def test_two_lines_of_one_worker_are_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of its old line does not shorten the time that it goes on for."""
    with space_side(new_workers(wait_s=60)) as space:
        old = RawWorker(space.port, "box", instance="one")
        new = RawWorker(space.port, "box", instance="one")
        wait_until("the line", lambda: bool(space.workers._clients))
        assert space.workers._keep_s() == 75
        for raw in (old, new):
            raw.close()
