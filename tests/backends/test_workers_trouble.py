"""Workers that dial in, when a line is slow, a message is wrong or a worker cannot draw."""

import functools
import struct
import time

import pytest

from backends import workers as workers_module
from backends.workers import Workers
from endpoint_client import EndpointClient
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
