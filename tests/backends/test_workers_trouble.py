"""Workers that dial in, when a line is slow, a message is wrong or a worker cannot draw."""

import functools
import struct
import time

import pytest

from backends import workers as workers_module
from backends.workers import Workers
from drawing.events import Waking
from endpoint_client import EndpointClient
from errors import BusyError, StartError
from tests.support.processes import wait_until
from tests.support.worker_line import DEADLINE_S, KEY, Drawing, RawWorker, png, space_side


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
        busy = RawWorker(space.port, "busy")
        wait_until("the first", lambda: len(space.workers._clients) == 1)
        free = RawWorker(space.port, "free")
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
