"""The endpoint's client against servers that misbehave: each trouble ends in its typed error, in time."""

import errno
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from drawing.events import Event, Step
from drawing.models import GeneratedImage, GenerationRequest
from endpoint import transport as endpoint_transport
from endpoint.credentials import Credentials
from endpoint.transport_errors import Advice
from endpoint.wire_format import Health
from endpoint_client import EndpointClient
from errors import (
    DrawingError,
    EndpointAnswerError,
    EndpointUnreachableError,
    JobCancelledError,
)
from tests.support.endpoint_scripts import PATIENCE_S, START, good, result, step
from tests.support.hostile_server import Line, Received, dropping_server, hostile_server
from tests.support.processes import wait_until

OURS = Credentials.from_secret("0123456789abcdefghijklmnopqrstuvwxyz-_ABCDEF")


def draw(client: EndpointClient, events: list[Event] | None = None, **options: Any) -> GeneratedImage:
    tell: Callable[[Event], None] = (lambda event: None) if events is None else events.append
    return client.infer(GenerationRequest("x"), request_id="id-1", tell=tell, **options)


def test_a_drawing_with_its_steps() -> None:
    """Every step is told, and the picture comes last, with its seed."""
    events: list[Event] = []
    with hostile_server(good) as server:
        drawing = draw(EndpointClient(server.url, bearer="b" * 64), events)
    assert events == [Step(1, 20), Step(20, 20)]
    assert (drawing.seed, drawing.image.size) == (7, (8, 8))
    assert server.requests[0].headers["authorization"] == "Bearer " + "b" * 64
    assert server.requests[0].start_request_id == "id-1"


@pytest.mark.parametrize("tls", [None, OURS], ids=["http", "tls"])
def test_the_connection_is_kept(tls: Credentials | None) -> None:
    """Healthchecks and drawings one after the other all go over the same connection."""
    with hostile_server(good, tls) as server:
        client = EndpointClient(server.url, certificate_sha256=OURS.certificate_sha256 if tls else None)
        for _ in range(3):
            client.health(timeout_s=PATIENCE_S)
            draw(client)
    assert len(server.requests) == 6
    assert server.connections == 1


def test_a_result_whose_end_lags_is_not_waited_for() -> None:
    """The picture is there although the server has not ended its answer, and no silence is waited for."""
    ended = threading.Event()

    def script(line: Line, request: Received) -> None:
        line.start_stream()
        line.event(result())
        line.say_nothing(PATIENCE_S)
        ended.set()

    with hostile_server(script) as server:
        assert draw(EndpointClient(server.url, silence_s=2 * PATIENCE_S)).seed == 7
        assert not ended.is_set()


def test_a_body_of_known_length_is_read_as_it_comes() -> None:
    """Steps are told as they come, also when the answer is not sent in chunks."""
    told = threading.Event()

    def script(line: Line, request: Received) -> None:
        line.send(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(step(1)).encode() + b"\n")
        assert told.wait(PATIENCE_S)
        line.send(json.dumps(result()).encode())

    with hostile_server(script) as server:
        request, client = GenerationRequest("x"), EndpointClient(server.url, silence_s=PATIENCE_S)
        drawing = client.infer(request, request_id="1", tell=lambda event: told.set())
    assert drawing.seed == 7


def test_upstream() -> None:
    """Upstream's server: one line of JSON, no events, no seed, a healthcheck with nothing but its state."""

    def script(line: Line, request: Received) -> bool:
        answer = {"state": "healthy", "gpu": True} if request.method == "GET" else {"images_base64": [PICTURE]}
        line.answer(200, json.dumps(answer))
        return True

    with hostile_server(script) as server:
        client = EndpointClient(server.url)
        assert client.health(timeout_s=PATIENCE_S).limits is None
        assert draw(client).seed is None


PICTURE = result()["image_base64"]


def cut(line: Line, request: Received) -> None:
    line.start_stream()
    line.event(START)
    line.event(step(3))


def cut_in_a_line(line: Line, request: Received) -> None:
    line.start_stream()
    line.chunk(json.dumps(result()).encode()[:60])


def cut_body(line: Line, request: Received) -> None:
    line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + json.dumps(step(1)).encode() + b"\n")


def ended_without_picture(line: Line, request: Received) -> None:
    line.stream(START, step(3))


def reset(line: Line, request: Received) -> None:
    line.start_stream()
    line.reset()


def closed(line: Line, request: Received) -> None:
    """Accepts and closes, as the tunnel does when the service behind it is down."""


def bad_gateway(line: Line, request: Received) -> None:
    line.answer(502, "<html>nobody behind me</html>")


def shutting_down(line: Line, request: Received) -> None:
    line.answer(503, json.dumps({"$error": {"code": "SHUTTING_DOWN", "message": "bye"}}), Retry_After="5")


@pytest.mark.parametrize(
    "script", [cut, cut_in_a_line, cut_body, ended_without_picture, reset, closed, bad_gateway, shutting_down]
)
def test_lost_connection_is_repeated_once(script: Callable[[Line, Received], None]) -> None:
    """Whatever way the answer breaks off: one repeat, on a fresh connection, under the same startRequestId."""
    with hostile_server(script) as server:
        with pytest.raises(EndpointUnreachableError) as caught:
            draw(EndpointClient(server.url))
        assert [request.start_request_id for request in server.posts()] == ["id-1", "id-1"]
        assert server.connections == 2
    assert caught.value.how == "closed"


def test_the_repeat_may_succeed() -> None:
    """A connection that is lost once costs nothing but the repeat."""

    def script(line: Line, request: Received) -> bool:
        if len(server.posts()) > 1:
            return good(line, request)
        cut(line, request)
        return False

    with hostile_server(script) as server:
        assert draw(EndpointClient(server.url)).seed == 7
    assert len(server.posts()) == 2


def silent(line: Line, request: Received) -> None:
    line.say_nothing()


def silent_in_a_stream(line: Line, request: Received) -> bool:
    if request.method == "POST":
        line.start_stream()
        line.event(START)
        line.say_nothing()
    return good(line, request)


def test_silence() -> None:
    """A server that accepts and says nothing is given up after `silence_s`, and is not waited for twice."""
    with hostile_server(silent) as server:
        with pytest.raises(EndpointUnreachableError, match=r"nothing came for [\d.]+ s") as caught:
            EndpointClient(server.url, silence_s=0.3).health(timeout_s=0.3)
        assert caught.value.how == "silent"
        with pytest.raises(EndpointUnreachableError) as caught:
            draw(EndpointClient(server.url, silence_s=0.3))
        assert caught.value.how == "silent"
        # The server may read later what was sent to it: the health, the drawing, and the health once more.
        wait_until("three requests", lambda: len(server.requests) >= 3)
        assert len(server.posts()) == 1


def test_silence_in_a_stream() -> None:
    """A stream that falls silent, from a server that still answers its healthcheck, is asked for once more."""

    class PatientClient(EndpointClient):
        """Waits longer for a healthcheck than for a stream."""

        def health(self, *, timeout_s: float = 3.0) -> Health:
            return super().health(timeout_s=PATIENCE_S)

    with hostile_server(silent_in_a_stream) as server:
        with pytest.raises(EndpointUnreachableError) as caught:
            draw(PatientClient(server.url, silence_s=0.5))
        assert caught.value.how == "silent"
        wait_until("the second post", lambda: len(server.posts()) == 2)


def test_nobody_listens(closed_port: int) -> None:
    """A refused connection is told as such."""
    client = EndpointClient(f"http://127.0.0.1:{closed_port}")
    for call in (client.health, lambda: draw(client)):
        with pytest.raises(EndpointUnreachableError, match="nobody listens") as caught:
            call()
        assert caught.value.how == "refused"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse where Linux drops")
def test_a_firewall_that_drops() -> None:
    """An address where nothing answers is told apart from a frozen server: with the port to open, and the seconds."""
    with dropping_server() as port:
        client = EndpointClient(f"http://127.0.0.1:{port}", silence_s=0.5)
        for call in (lambda: client.health(timeout_s=0.5), lambda: draw(client)):
            told = rf"nothing came from 127\.0\.0\.1:{port} in [\d.]+ s, not even a refusal.*open TCP port {port}"
            with pytest.raises(EndpointUnreachableError, match=told) as caught:
                call()
            assert caught.value.how == "unheard"


def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo in a host's name is told with the name, and with the setting that it comes from."""

    def unknown(*args: Any, **options: Any) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    client = EndpointClient("https://vm.exmaple.org:8080", advice=Advice(address="TUNNEL_ADDRESS"))
    with pytest.raises(EndpointUnreachableError, match=r"the name vm\.exmaple\.org.*Check TUNNEL_ADDRESS") as caught:
        client.health()
    assert caught.value.how == "unknown"


@pytest.mark.parametrize(
    ("number", "told"), [(errno.ENETUNREACH, "no network that leads there"), (errno.EHOSTUNREACH, "no such machine")]
)
def test_no_way_there(number: int, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that the network does not lead to is no service that has to be started."""

    def refuse(*args: Any, **options: Any) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(EndpointUnreachableError, match=told) as caught:
        EndpointClient("http://127.0.0.1:8080").health()
    assert caught.value.how == "unheard"


def endless_line(line: Line, request: Received) -> None:
    line.start_stream()
    while True:
        line.chunk(b"x" * 60_000)


def test_a_line_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endless line is given up after a bounded number of bytes."""
    monkeypatch.setattr(endpoint_transport, "ANSWER_BYTES_MAX", 1_000_000)
    with hostile_server(endless_line) as server, pytest.raises(EndpointAnswerError, match="more than"):
        draw(EndpointClient(server.url))


def dripping(line: Line, request: Received) -> None:
    if request.method == "POST":
        line.start_stream()
        while not line.stopped.wait(0.05):
            line.chunk(b" ")
    line.answer(200, "{}")


def lively(line: Line, request: Received) -> None:
    if request.method == "POST":
        line.start_stream()
        while not line.stopped.wait(0.05):
            line.event(step(1))
    line.answer(200, "{}")


@pytest.mark.parametrize("script", [dripping, lively])
def test_a_drawing_that_never_ends(script: Callable[[Line, Received], None]) -> None:
    """A server that goes on talking without a picture is given up after `drawing_s`, and told so."""
    with hostile_server(script) as server:
        with pytest.raises(DrawingError, match="not done after"):
            draw(EndpointClient(server.url, silence_s=PATIENCE_S, drawing_s=0.4))
        wait_until("the cancel", lambda: [request.method for request in server.requests] == ["POST", "DELETE"])


def test_a_healthcheck_that_drips(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that comes byte by byte, without an end, counts as silence after the deadline."""

    class Clock:
        """The transport's clock, by which the answer takes half of the deadline for each byte."""

        now = 0.0

        def monotonic(self) -> float:
            return self.now

    def script(line: Line, request: Received) -> None:
        line.start_stream()
        while not line.stopped.wait(0.01):
            clock.now += PATIENCE_S / 2
            line.chunk(b" ")

    clock = Clock()
    monkeypatch.setattr(endpoint_transport, "time", clock)
    with hostile_server(script) as server, pytest.raises(EndpointUnreachableError, match="not whole") as caught:
        EndpointClient(server.url).health(timeout_s=PATIENCE_S)
    assert caught.value.how == "silent"


@pytest.mark.parametrize("script", [dripping, lively])
def test_cancel(script: Callable[[Line, Received], None]) -> None:
    """A cancel is noticed at the next sign of life, and the server is told by DELETE under the request's id."""
    with hostile_server(script) as server:
        with pytest.raises(JobCancelledError):
            draw(EndpointClient(server.url, silence_s=PATIENCE_S), cancelled=lambda: len(server.posts()) > 0)
        told = [("POST", "/"), ("DELETE", "/requests/id-1")]
        wait_until("the cancel", lambda: [(one.method, one.path) for one in server.requests] == told)


def test_cancel_of_a_server_that_is_gone(closed_port: int) -> None:
    """A cancel that nobody hears is no error."""
    EndpointClient(f"http://127.0.0.1:{closed_port}").cancel("a/b")


def test_many_threads_share_a_client() -> None:
    """Thirty drawings at once through one client all get their own picture."""
    with hostile_server(good) as server:
        client = EndpointClient(server.url, silence_s=PATIENCE_S)
        seeds: list[int | None] = []
        threads = [threading.Thread(target=lambda: seeds.append(draw(client).seed)) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert seeds == [7] * 30
