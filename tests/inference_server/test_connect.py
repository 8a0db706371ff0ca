"""A worker's end of its line: what a Space, or what stands before it, may answer, and how often it is tried."""

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from inference_server.space import space_of
from inference_server.space_connection import PROTOCOL
from tests.support.processes import wait_until
from tests.support.worker_line import DEADLINE_S, KEY, worker

HELLO = json.dumps({"type": "hello", "protocol": PROTOCOL, "version": "0.1.0"})


@contextlib.contextmanager
def space(
    handler: Callable[[ServerConnection], None],
    refuse: Callable[[ServerConnection, Request], Response | None] = lambda _, __: None,
) -> Iterator[int]:
    """A Space of the test's own making; yields its port."""
    with serve(handler, "127.0.0.1", 0, process_request=refuse) as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        yield int(server.socket.getsockname()[1])
        server.shutdown()


@pytest.mark.parametrize(
    "message", ["[]", "no JSON", "[" * 100_000, '{"type": "request", "id": 1}', '{"type": "hello", "protocol": "x"}']
)
def test_a_message_that_makes_no_sense_does_not_end_the_worker(message: str, caplog: pytest.LogCaptureFixture) -> None:
    """It says so in one sentence, and connects again."""
    lines: list[ServerConnection] = []

    def handler(line: ServerConnection) -> None:
        lines.append(line)
        line.send(HELLO)
        if len(lines) == 1:
            line.send(message)
        list(line)

    with space(handler) as port, worker(port):
        wait_until("it to come again", lambda: len(lines) == 2, DEADLINE_S)
    assert "does not understand" in caplog.text


def test_a_line_that_never_holds_is_tried_less_and_less_often() -> None:
    """A Space that takes the line and ends it at once, an old one for instance, is not called twice a second."""
    begun: list[float] = []

    def handler(line: ServerConnection) -> None:
        begun.append(time.monotonic())

    with space(handler) as port, worker(port):
        wait_until("some tries", lambda: len(begun) == 6, DEADLINE_S)
    pauses = [later - earlier for earlier, later in itertools.pairwise(begun)]
    assert pauses[0] < 1
    assert pauses[4] > 1.5


def test_a_redirect_is_not_followed(caplog: pytest.LogCaptureFixture) -> None:
    """The key goes to the Space alone, and what stood before it for a moment does not divert the worker for good."""
    asked: list[str] = []
    lines: list[ServerConnection] = []

    def refuse(line: ServerConnection, request: Request) -> Response | None:
        asked.append(request.path)
        if len(asked) > 1:
            return None
        return Response(HTTPStatus.FOUND, "Found", Headers({"Location": "/login", "Content-Length": "0"}))

    def handler(line: ServerConnection) -> None:
        lines.append(line)
        list(line)

    with space(handler, refuse) as port, worker(port):
        wait_until("the line", lambda: bool(lines), DEADLINE_S)
    assert asked == ["/worker", "/worker"]
    assert "it answered 302" in caplog.text
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    ("address", "environment", "told"),
    [
        ("https://you-draw.hf.space:99999", {}, "is no such address"),
        ("https://you:secret@you-draw.hf.space", {}, "is no such address"),
        ("https://you-draw.hf.space", {"WORKER_KEY": "a\u200bb"}, "WORKER_KEY"),
        ("https://you-draw.hf.space", {"WORKER_KEY": "a b"}, "WORKER_KEY"),
        ("https://you-draw.hf.space", {"HF_TOKEN": "hf_a\nb"}, "HF_TOKEN"),
    ],
)
def test_what_cannot_be_dialled_is_told_at_once(address: str, environment: dict[str, str], told: str) -> None:
    """A worker that starts with it would try for ever; the value stands in no error."""
    with pytest.raises(ValueError, match=told) as wrong:
        space_of(address, {"WORKER_KEY": KEY, **environment})
    assert not any(value in str(wrong.value) for value in [*environment.values(), "you:secret"])


def test_what_was_pasted_along_is_dropped() -> None:
    """A line's end or a zero-width space around a key or a token."""
    space = space_of("you/draw", {"WORKER_KEY": f"\ufeff{KEY}\u200b\r\n", "HF_TOKEN": "\u200bhf_a\n"})
    assert space is not None
    assert (space.url, space.key, space.hub_token) == ("https://you-draw.hf.space", KEY, "hf_a")
