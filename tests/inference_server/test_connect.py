"""A worker's end of its line: what a Space, or what stands before it, may answer, and how often it is tried."""

import contextlib
import itertools
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from benchmarks._certificate import certify
from inference_server import line_dial
from inference_server.space import space_of
from inference_server.space_connection import PROTOCOL
from tests.support.processes import wait_until
from tests.support.worker_line import DEADLINE_S, KEY, DrawingApp, worker

HELLO = json.dumps({"type": "hello", "protocol": PROTOCOL, "version": "0.1.0"})


@contextlib.contextmanager
def space(
    handler: Callable[[ServerConnection], None],
    refuse: Callable[[ServerConnection, Request], Response | None] = lambda _, __: None,
    ssl: ssl.SSLContext | None = None,
) -> Iterator[int]:
    """A Space of the test's own making; yields its port."""
    with serve(handler, "127.0.0.1", 0, process_request=refuse, ssl=ssl) as server:
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


def offer(number: int) -> str:
    """A request for a picture, as a Space sends it."""
    body = json.dumps({"modelInputs": {"seed": number}, "callInputs": {"startRequestId": f"job-{number}"}})
    return json.dumps({"type": "request", "id": number, "method": "POST", "path": "/", "body": body})


class LeasingSpace:
    """A Space that leases what it has offered; it acknowledges nothing by itself. `heard`: types of messages."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.codes: list[int | None] = []
        self.lines: list[ServerConnection] = []

    def __call__(self, line: ServerConnection) -> None:
        line.send(json.dumps({**json.loads(HELLO), "acknowledges": True}))
        self.lines.append(line)
        line.send(offer(1))
        beat, leased = 0, list[int]()
        for message in (json.loads(text) for text in line if isinstance(text, str)):
            self.heard.append(message["type"])
            beat = message.get("beat", beat)
            if message["type"] == "accepted":
                leased.append(message["id"])
            if message["type"] in ("accepted", "beat"):
                line.send(json.dumps({"type": "lease", "beat": beat, "ids": leased, "keep_s": 60}))
        self.codes.append(line.close_code)

    def acknowledge(self, number: int) -> None:
        self.lines[-1].send(json.dumps({"type": "received", "id": number, "request_id": f"job-{number}"}))


def test_a_worker_that_ends_waits_until_its_picture_has_come() -> None:
    """What was sent may still be under way: closed too soon, a slow line would lose it, and with it the drawing."""
    app, place = DrawingApp(), LeasingSpace()
    with space(place) as port, worker(port, app=app) as box:
        wait_until("the whole answer", lambda: "end" in place.heard, DEADLINE_S)
        box.end()
        wait_until("its goodbye", lambda: "leaving" in place.heard, DEADLINE_S)
        time.sleep(0.3)
        assert (place.codes, app.received) == ([], [])
        place.acknowledge(1)
        wait_until("the line's end", lambda: place.codes == [1000], DEADLINE_S)
    assert app.received == ["job-1"]


def test_a_request_that_was_under_way_at_the_goodbye_is_answered() -> None:
    """The Space has sent it before it heard that the worker ends: it is begun, and lost if the line is closed then."""
    app, place = DrawingApp(), LeasingSpace()
    app.may_finish.clear()
    with space(place) as port, worker(port, app=app) as box:
        assert app.posts.acquire(timeout=DEADLINE_S)
        box.end()
        wait_until("its goodbye", lambda: "leaving" in place.heard, DEADLINE_S)
        place.lines[0].send(offer(2))
        assert app.posts.acquire(timeout=DEADLINE_S)
        place.lines[0].send(json.dumps({"type": "hang_up", "id": 1}))  # what it was waiting for at the goodbye is over
        wait_until("the first one's end", lambda: app.hung_up == ["job-1"], DEADLINE_S)
        time.sleep(0.2)
        assert place.codes == []
        app.may_finish.set()
        wait_until("the answer", lambda: "end" in place.heard, DEADLINE_S)
        place.acknowledge(2)
        wait_until("the line's end", lambda: place.codes == [1000], DEADLINE_S)
    assert app.received == ["job-2"]


def test_the_first_request_says_who_comes() -> None:
    """The hello is the same as on the line, whatever the worker is called."""
    early: list[str] = []
    said: list[dict[str, object]] = []

    def refuse(line: ServerConnection, request: Request) -> Response | None:
        early.append(request.headers["X-Worker-Hello"])
        return None

    def handler(line: ServerConnection) -> None:
        said.append(json.loads(line.recv(DEADLINE_S)))
        list(line)

    with space(handler, refuse) as port, worker(port, name="bäx\r\n: 箱"):
        wait_until("the hello", lambda: bool(said), DEADLINE_S)
    assert json.loads(early[0]) == said[0]
    assert early[0].isascii()


def test_a_session_is_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second TLS handshake with a Space sends no certificates; a wrong certificate is refused all the same."""
    certificate, key = certify(tmp_path, ["127.0.0.1"])
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    reused: list[bool | None] = []

    def handler(line: ServerConnection) -> None:
        assert isinstance(line.socket, ssl.SSLSocket)
        reused.append(line.socket.session_reused)
        if len(reused) > 1:
            list(line)
        else:
            line.recv(DEADLINE_S)

    with space(handler, ssl=context) as port, worker(f"https://127.0.0.1:{port}"):
        wait_until("the second line", lambda: len(reused) == 2, DEADLINE_S)
    assert reused == [False, True]


def test_a_space_that_does_not_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen just as the line was to be opened: the next try comes soon, and not after minutes."""
    monkeypatch.setattr(line_dial, "_UPGRADE_S", 0.3)
    asked: list[Request] = []
    lines: list[ServerConnection] = []
    thaw = threading.Event()

    def refuse(line: ServerConnection, request: Request) -> Response | None:
        asked.append(request)
        if len(asked) == 1:
            thaw.wait(DEADLINE_S)
        return None

    def handler(line: ServerConnection) -> None:
        lines.append(line)
        list(line)

    with space(handler, refuse) as port, worker(port):
        wait_until("the line", lambda: bool(lines), DEADLINE_S)
        thaw.set()


def test_a_try_that_gets_through_late_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the Space takes connections and says nothing, one try after another is given up, each in its own time: one
    that waits already when it goes on is the line.
    """
    monkeypatch.setattr(line_dial, "_TRY_EVERY_S", 0.2)
    monkeypatch.setattr(line_dial, "_TRY_S", 0.7)
    certificate, key = certify(tmp_path, ["127.0.0.1"])
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    heard: list[float] = []

    with socket.create_server(("127.0.0.1", 0)) as listener, worker(f"https://127.0.0.1:{listener.getsockname()[1]}"):
        time.sleep(1.5)  # longer than any one try
        thawed = time.monotonic()
        while not heard:
            end, _ = listener.accept()
            with contextlib.suppress(OSError), context.wrap_socket(end, server_side=True) as line:
                if b"/worker" in line.recv(100):
                    heard.append(time.monotonic())
        assert heard[0] - thawed < 10
