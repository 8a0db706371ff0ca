"""What an endpoint says instead of drawing: each answer becomes its own typed error."""

import json

import pytest

from drawing.models import GeneratedImage, GenerationRequest
from endpoint_client import EndpointClient
from errors import (
    BusyError,
    DrawingError,
    EndpointAnswerError,
    EndpointUnreachableError,
    EndpointUntrustedError,
    InvalidRequestError,
    SpaceError,
)
from tests.support.endpoint_scripts import PATIENCE_S
from tests.support.hostile_server import Line, Received, hostile_server


def draw(client: EndpointClient) -> GeneratedImage:
    return client.infer(GenerationRequest("x"), request_id="id-1", tell=lambda event: None)


ERROR = {"code": "INVALID_INPUTS", "name": "x", "message": "no such size"}


@pytest.mark.parametrize(
    ("status", "body", "headers", "kind"),
    [
        (401, json.dumps({"$error": {"code": "UNAUTHORIZED", "message": "no"}}), {}, EndpointUntrustedError),
        (401, "", {"Connection": "close"}, EndpointUntrustedError),
        (401, '{"a":' * 100_000, {}, EndpointUntrustedError),
        (400, json.dumps({"$error": ERROR}), {}, InvalidRequestError),
        (200, json.dumps({"$error": ERROR}), {}, InvalidRequestError),  # upstream's way
        (500, json.dumps({"$error": {"code": "PIPELINE_ERROR", "message": "no"}}), {}, DrawingError),
        (503, json.dumps({"$error": {"code": "BUSY", "message": "no"}}), {"Retry_After": "7"}, BusyError),
        (503, "later", {"Retry_After": "7"}, BusyError),
        (429, "", {"Retry_After": "7"}, BusyError),
        (404, "<html>not here</html>", {}, EndpointAnswerError),
        (500, "", {}, EndpointAnswerError),
        (301, "", {"Location": "http://127.0.0.1:1/"}, EndpointAnswerError),
        (307, "moved", {"Location": "https://elsewhere.example.org/"}, EndpointAnswerError),
        (200, "<html>welcome</html>", {}, EndpointAnswerError),
        (200, "[]", {}, EndpointAnswerError),
        (204, "", {}, EndpointAnswerError),
        (200, '{"image_base64": "iVBORw0"}', {}, EndpointAnswerError),
    ],
)
def test_refusals(status: int, body: str, headers: dict[str, str], kind: type[SpaceError]) -> None:
    """Each refusal becomes its own error at once: nothing is repeated, no redirect is followed."""

    def script(line: Line, request: Received) -> None:
        line.answer(status, body, **headers)

    with hostile_server(script) as server:
        with pytest.raises(kind) as caught:
            draw(EndpointClient(server.url))
        assert len(server.requests) == 1
    assert type(caught.value) is kind
    if isinstance(caught.value, BusyError):
        assert caught.value.retry_after_s == 7
    if status in (301, 404, 500) and kind is EndpointAnswerError:
        assert str(status) in str(caught.value)


@pytest.mark.parametrize("value", ["\u00b2", "soon", "-1", "9" * 400, "Wed, 21 Oct 2026 07:28:00 GMT", ""])
def test_odd_retry_after(value: str) -> None:
    """A Retry-After of any kind leads to a bounded number of seconds."""

    def script(line: Line, request: Received) -> None:
        body = b'{"$error": {"code": "BUSY"}}'
        rows = f"HTTP/1.1 503 Busy\r\nRetry-After: {value}\r\nContent-Length: {len(body)}\r\n\r\n"
        line.send(rows.encode("latin-1") + body)

    with hostile_server(script) as server, pytest.raises(BusyError) as caught:
        draw(EndpointClient(server.url))
    assert 0 <= caught.value.retry_after_s <= 3600


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (503, json.dumps({"$error": {"code": "BUSY"}}), EndpointAnswerError),
        (502, "", EndpointUnreachableError),
        (401, "", EndpointUntrustedError),
        (404, "no", EndpointAnswerError),
        (301, "", EndpointAnswerError),
        (200, "", EndpointAnswerError),
        (200, '{"state": ["healthy"]}', EndpointAnswerError),
    ],
)
def test_odd_healthchecks(status: int, body: str, kind: type[SpaceError]) -> None:
    """A healthcheck ends in one of its three errors whatever comes back."""
    told = pytest.raises(kind, match=r"tried to (ask for its health|read its answer)")
    with hostile_server(lambda line, request: line.answer(status, body)) as server, told:
        EndpointClient(server.url).health(timeout_s=PATIENCE_S)


GARBAGE = [
    b"\x15\x03\x01\x00\x02\x02\x16",
    b"SSH-2.0-OpenSSH\r\n",
    b"\0" * 100,
    b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nab",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    b"HTTP/1.1 200 OK\r\na: " + b"b" * 70_000 + b"\r\n\r\n",
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda value: repr(value)[:50])
def test_no_http_at_all(garbage: bytes) -> None:
    """Something that does not speak HTTP, or speaks it wrongly, is a typed error."""
    with hostile_server(lambda line, request: line.send(garbage)) as server, pytest.raises(SpaceError):
        EndpointClient(server.url).health(timeout_s=PATIENCE_S)
