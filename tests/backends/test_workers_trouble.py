"""Workers that dial in, when a line is slow, a message is wrong or a worker cannot draw."""

import asyncio
import functools
import json
import random
import struct
import time
from typing import Any, cast

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from backends import workers as workers_module
from backends.workers import Workers
from drawing.events import Waking
from drawing.models import GenerationRequest
from endpoint import worker_connection
from endpoint.worker_connection import WorkerConnection
from endpoint.worker_transport import WorkerTransport
from endpoint_client import EndpointClient
from errors import BusyError, EndpointAnswerError, EndpointUnreachableError, InvalidRequestError, StartError
from tests.support.processes import wait_until
from tests.support.worker_line import DEADLINE_S, KEY, Drawing, RawWorker, png, relay, space_side
from text_to_image import TextToImage


def new_workers(wait_s: float = DEADLINE_S) -> Workers:
    return Workers(KEY, wait_s=wait_s)


def test_a_picture_that_takes_long_to_come_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow line a picture comes for longer than a worker may be silent: every piece of it counts as a sign."""
    monkeypatch.setattr(workers_module, "EndpointClient", functools.partial(EndpointClient, silence_s=0.6))
    with space_side(new_workers()) as space:
        raw = RawWorker(space.port)
        drawing = Drawing(space.workers, 1)
        request = raw.take()
        raw.say(type="head", id=request["id"], status=200, retry_after=None)
        file = png(1)
        for start in range(0, len(file), len(file) // 5):
            time.sleep(0.3)  # the line is slow
            raw.line.send(struct.pack(">II", request["id"], 0) + file[start : start + len(file) // 5])
        raw.say(type="line", id=request["id"], line={"$meta": {"seeds": [1]}}, pictures=1)
        raw.say(type="end", id=request["id"])
        assert drawing.result().encoded == file
        raw.close()


def test_a_worker_whose_gpu_is_busy_leaves_the_picture_to_another() -> None:
    """It has the most room, as it draws nothing; what it refuses is drawn by the one that can."""
    with space_side(new_workers()) as space:
        free = RawWorker(space.port, "free")
        wait_until("the first", lambda: len(space.workers._clients) == 1)
        busy = RawWorker(space.port, "busy")
        wait_until("both", lambda: len(space.workers._clients) == 2)
        drawing = Drawing(space.workers, 1)
        busy.refuse(busy.take()["id"], "GPU_BUSY")
        free.answer(free.take()["id"], 1)
        assert drawing.result().encoded == png(1)
        busy.beat(state="failed", reason="gpu-busy: a game")
        wait_until("the news", lambda: any(one.health and one.health.gpu_busy for one in space.workers._clients))
        drawing = Drawing(space.workers, 2)
        free.answer(free.take()["id"], 2)
        assert drawing.result().encoded == png(2)
        drawing = Drawing(space.workers, 3)
        free.refuse(free.take()["id"], "BUSY")
        busy.refuse(busy.take()["id"], "GPU_BUSY")
        assert isinstance(drawing.result(), BusyError), "the refusal of the one that is better off"
        for raw in (busy, free):
            raw.close()


def test_a_worker_that_cannot_load_its_model_is_not_waited_for() -> None:
    """The sentence names it, and why; one that still loads is waited for."""
    with space_side(new_workers(wait_s=0)) as space:
        raw = RawWorker(space.port, state="loading")
        wait_until("the worker", lambda: not space.workers.status().away)
        drawing = Drawing(space.workers, 1)
        wait_until("the wait", lambda: Waking("Loading the model") in drawing.events)
        raw.beat(state="failed", reason="no such model: a/b")
        outcome = drawing.result()
        assert isinstance(outcome, StartError)
        assert "raw could not load its model (no such model: a/b)" in str(outcome)
        raw.close()


def test_a_worker_that_downloads_its_model_is_waited_for() -> None:
    """However long that takes; the sentence says how far it is, and the reason where it breaks off."""
    with space_side(Workers(KEY, wait_s=0, start_s=0.3)) as space:
        raw = RawWorker(space.port, state="loading", stage="Downloading the model: 1.2 of 5.1 GB")
        wait_until("the worker", lambda: not space.workers.status().away)
        drawing = Drawing(space.workers, 1)
        wait_until("the wait", lambda: Waking("Downloading the model: 1.2 of 5.1 GB") in drawing.events)
        time.sleep(0.5)  # longer than a start may take
        raw.beat(state="loading", stage="Downloading the model: 1.3 of 5.1 GB")
        wait_until("the rest", lambda: Waking("Downloading the model: 1.3 of 5.1 GB") in drawing.events)
        raw.beat(state="failed", reason="Fetching a/b from the hub: the download stalled at 1.3 of 5.1 GB")
        assert "the download stalled at 1.3 of 5.1 GB" in str(drawing.result())
        raw.close()


def test_a_worker_that_leaves_is_not_loading_its_model() -> None:
    """What a visitor reads meanwhile; the next worker draws."""
    with space_side(new_workers()) as space:
        raw = RawWorker(space.port)
        wait_until("the worker", lambda: not space.workers.status().away)
        raw.say(type="leaving")
        wait_until("it to leave", lambda: space.workers._best() is None)
        drawing = Drawing(space.workers, 1)
        wait_until("the wait", lambda: bool(drawing.events))
        assert [event.stage for event in drawing.events] == [workers_module.AWAY_FOR_A_MOMENT]
        other = RawWorker(space.port, "other")
        other.answer(other.take()["id"], 1)
        assert drawing.result().encoded == png(1)
        for line in (raw, other):
            line.close()


@pytest.mark.parametrize(
    ("message", "greeted"),
    [
        (b"\0\1", True),
        (b"\0\1", False),
        ("[]", True),
        ("[]", False),
        ("no JSON", True),
        ("[" * 100_000, True),
        ("[" * 100_000, False),
        ('{"type": "beat", "beat": Infinity, "health": {"state": "healthy"}}', True),
        ('{"type": "head", "id": {}, "status": 1}', True),
    ],
)
def test_a_message_that_makes_no_sense_ends_the_line(
    message: str | bytes, greeted: bool, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is told in one sentence, without a traceback, and the next line is taken."""
    with space_side(new_workers()) as space:
        with connect(f"ws://127.0.0.1:{space.port}/worker", additional_headers={"X-Worker-Key": KEY}) as line:
            if greeted:
                line.send(json.dumps({"type": "hello", "protocol": worker_connection.PROTOCOL, "name": "box"}))
            line.send(message)
            with pytest.raises(ConnectionClosedError, match="does not understand"):
                list(line)
        raw = RawWorker(space.port)
        wait_until("the next one", lambda: not space.workers.status().away)
        raw.close()
    assert "does not understand" in caplog.text
    assert "Traceback" not in capfd.readouterr().err + caplog.text


def test_an_answer_that_is_too_large_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The visitor reads a sentence, the worker is told to stop, and the line stays for others."""
    monkeypatch.setattr(worker_connection, "ANSWER_BYTES_MAX", 1000)
    with space_side(new_workers()) as space:
        raw = RawWorker(space.port)
        drawing = Drawing(space.workers, 1)
        request = raw.take()
        raw.say(type="head", id=request["id"], status=200, retry_after=None)
        for _ in range(3):
            raw.line.send(struct.pack(">II", request["id"], 0) + bytes(999))
        raw.say(type="line", id=request["id"], line={}, pictures=1)
        assert isinstance(drawing.result(), EndpointAnswerError)
        assert raw.hear("hang_up")["id"] == request["id"]
        drawing = Drawing(space.workers, 2)
        raw.answer(raw.take()["id"], 2)
        assert drawing.result().encoded == png(2)
        raw.close()


def test_an_answer_without_a_beginning_is_asked_for_again() -> None:
    """A worker that gave a request up before it answered gets it once more."""
    with space_side(new_workers()) as space:
        raw = RawWorker(space.port)
        drawing = Drawing(space.workers, 1)
        raw.say(type="end", id=raw.take()["id"])
        raw.answer(raw.take()["id"], 1)
        assert drawing.result().encoded == png(1)
        raw.close()


def test_leases_come_at_their_time_alone() -> None:
    """What a worker tells of its steps is not answered by a lease each: they would fill a slow line."""
    with space_side(new_workers()) as space:
        raw = RawWorker(space.port)
        drawing = Drawing(space.workers, 1)
        steps = ({"type": "progress", "step": step, "total_steps": 50} for step in range(50))
        raw.answer(raw.take()["id"], 1, *steps)
        drawing.result()
        Drawing(space.workers, 2)
        leases = 0
        while (message := json.loads(raw.line.recv(DEADLINE_S)))["type"] != "request":
            leases += message["type"] == "lease"
        assert leases <= 5
        raw.close()


def test_a_line_that_is_full_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be sent any more, a farewell neither: its worker does not stay among those who are there."""
    monkeypatch.setattr(worker_connection, "SILENCE_S", 0.5)
    monkeypatch.setattr(worker_connection, "LEASE_EVERY_S", 0.2)
    with space_side(new_workers()) as space, relay(space.port) as line:
        raw = RawWorker(line.port)
        wait_until("the worker", lambda: not space.workers.status().away)
        (worker,) = space.workers._clients
        line.hold()
        for _ in range(100):
            worker._post(type="request", id=0, method="POST", path="/", body=random.randbytes(250_000).hex())
        wait_until("it to be given up", lambda: space.workers.status().away)
        line.cut()
        raw.close()


def test_a_space_that_ends_says_so() -> None:
    """Its server's event loop is closed while a picture is asked for: a sentence, no fault of this program."""

    async def connection() -> WorkerConnection:
        return WorkerConnection(cast(Any, None))

    transport = WorkerTransport(asyncio.run(connection()))
    client = EndpointClient("worker", transport=transport)
    with pytest.raises(EndpointUnreachableError, match="server has ended"):
        client.infer(GenerationRequest("a"), request_id="a", tell=lambda event: None)


def test_a_workers_name_is_fit_for_a_log() -> None:
    """No line of its own in the log, and nothing that cannot be written."""
    with space_side(new_workers()) as space:
        raw = RawWorker(space.port, "box\nERROR \ud800\x1b[31m" + "x" * 100)
        wait_until("the worker", lambda: not space.workers.status().away)
        assert [worker.name for worker in space.workers._clients] == ["boxERROR [31m" + "x" * 51]
        raw.close()


def test_of_two_lines_with_the_same_room_the_newer_one_draws() -> None:
    """The older one may be what is left of a worker that has come back: nobody knows yet that it is dead."""
    with space_side(new_workers()) as space:
        old = RawWorker(space.port, "box")
        wait_until("the first", lambda: len(space.workers._clients) == 1)
        new = RawWorker(space.port, "box")
        wait_until("both", lambda: len(space.workers._clients) == 2)
        drawing = Drawing(space.workers, 1)
        new.answer(new.take()["id"], 1)
        assert drawing.result().encoded == png(1)
        for raw in (old, new):
            raw.close()


def test_a_picture_goes_to_a_worker_that_can_draw_its_size() -> None:
    """Models differ: what one of the workers can draw is drawn, whichever has the most room; what none can is told."""
    with space_side(new_workers()) as space:
        large = RawWorker(space.port, "large", limits={"width": {"min": 256, "max": 1024, "multiple": 64}})
        wait_until("the first", lambda: len(space.workers._clients) == 1)
        small = RawWorker(space.port, "small", limits={"width": {"min": 64, "max": 256, "multiple": 8}})
        wait_until("both", lambda: len(space.workers._clients) == 2)
        service = TextToImage(space.workers)
        for raw, width in ((large, 1024), (small, 72), (large, 512)):
            job = service.submit("a red apple", width=width)
            raw.answer(raw.take()["id"], 1)
            assert job.result(DEADLINE_S).receipt.worker == ("large" if raw is large else "small")
        with pytest.raises(InvalidRequestError, match="from 64 to 1024"):
            service.submit("a red apple", width=2048)
        for raw in (large, small):
            raw.close()
