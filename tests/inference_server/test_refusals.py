"""The inference server refuses: bad input, the wrong bearer, bodies and connections without end."""

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from tests.support.inference_process import DEADLINE_S, InferenceProcess, running, wait_until

pytestmark = pytest.mark.slow
BEARER = "right-bearer-0123456789abcdef"
ENDLESS = 999_999_999  # bytes


@pytest.fixture(scope="module")
def server() -> Iterator[InferenceProcess]:
    with running() as started:
        started.wait_healthy()
        yield started


@pytest.fixture(scope="module")
def guarded() -> Iterator[InferenceProcess]:
    config = {"bearer": BEARER, "deployment": "mine", "fingerprint": "abc", "limits": {"body_bytes": {"max": 100_000}}}
    with running(config=config) as started:
        started.wait_healthy()
        yield started


@dataclass(frozen=True)
class Stalled:
    """Connections whose clients send no more: no byte, headers without end, half a body."""

    silent: socket.socket
    slow: socket.socket
    half: socket.socket


@pytest.fixture(scope="module", autouse=True)
def stalled(guarded: InferenceProcess) -> Iterator[Stalled]:
    """Begun with the first test, since the server waits for half a minute."""
    headers = f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {BEARER}\r\nContent-Length: 100\r\n\r\n"
    with connect(guarded) as silent, connect(guarded) as slow, connect(guarded) as half:
        slow.sendall(b"GET /healthcheck HTTP/1.1\r\nHost: ")
        half.sendall(headers.encode() + b"{")
        yield Stalled(silent, slow, half)


def refused(answer: requests.Response, status: int, code: str) -> str:
    """The message of a refusal in the wire's shape."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["$error"]
    assert set(error) == {"code", "name", "message"}
    assert error["code"] == code
    assert "Traceback" not in answer.text
    return str(error["message"])


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "   "}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": ["a cat"]}, "prompt"),
        ({"prompt": "x" * 2001}, "2000"),
        ({"prompt": "a\0b"}, "NUL"),
        ({"prompt": "a cat", "negative_prompt": "x" * 2001}, "negative_prompt"),
        ({"prompt": "a cat", "num_inference_steps": 0}, "1 to 250"),
        ({"prompt": "a cat", "num_inference_steps": 251}, "1 to 250"),
        ({"prompt": "a cat", "num_inference_steps": 2.5}, "num_inference_steps"),
        ({"prompt": "a cat", "num_inference_steps": True}, "num_inference_steps"),
        ({"prompt": "a cat", "num_inference_steps": "20"}, "num_inference_steps"),
        ({"prompt": "a cat", "num_inference_steps": 10**400}, "num_inference_steps"),
        ({"prompt": "a cat", "width": 100}, "multiples of 64"),
        ({"prompt": "a cat", "width": 0}, "64 to 256"),
        ({"prompt": "a cat", "height": 512}, "64 to 256"),
        ({"prompt": "a cat", "height": -64}, "64 to 256"),
        ({"prompt": "a cat", "guidance_scale": 31}, "guidance_scale"),
        ({"prompt": "a cat", "guidance_scale": -1}, "guidance_scale"),
        ({"prompt": "a cat", "guidance_scale": False}, "guidance_scale"),
        ({"prompt": "a cat", "num_images_per_prompt": 5}, "1 to 4"),
        ({"prompt": "a cat", "num_images_per_prompt": 0}, "1 to 4"),
        ({"prompt": "a cat", "seed": -1}, "seed"),
        ({"prompt": "a cat", "seed": 2**32}, "seed"),
        ({"prompt": "a cat", "seed": 1.5}, "seed"),
        ({"prompt": "a cat", "seed": "7"}, "seed"),
        ({"prompt": "a cat", "image": "no picture at all"}, "text alone"),
        ({"prompt": "a cat", "mask_image": "x"}, "text alone"),
    ],
)
def test_bad_model_inputs_are_refused_by_name(server: InferenceProcess, inputs: dict[str, Any], named: str) -> None:
    """Each input that cannot be honoured is refused with its name or what can be had, streamed or not."""
    assert named in refused(server.post(inputs), 400, "INVALID_INPUTS")
    assert named in refused(server.post(inputs, streamEvents=1), 400, "INVALID_INPUTS")


@pytest.mark.parametrize(
    ("call", "code", "named"),
    [
        ({"MODEL_ID": "lykon/dreamshaper-8"}, "MODEL_MISMATCH", "demo_model"),
        ({"MODEL_ID": ""}, "NO_MODEL_ID", "MODEL_ID"),
        ({"MODEL_ID": 5}, "INVALID_INPUTS", "MODEL_ID"),
        ({"PIPELINE": "StableDiffusionImg2ImgPipeline"}, "NO_SUCH_PIPELINE", "AutoPipelineForText2Image"),
        ({"SCHEDULER": "DEISMultistepScheduler"}, "INVALID_SCHEDULER", "DDIMScheduler"),
        ({"SCHEDULER": "LCMScheduler"}, "INVALID_SCHEDULER", "EulerDiscreteScheduler"),
        ({"image_format": "GIF"}, "INVALID_INPUTS", "JPEG"),
        ({"png_compress_level": 10}, "INVALID_INPUTS", "png_compress_level"),
        ({"startRequestId": "with space"}, "INVALID_INPUTS", "startRequestId"),
        ({"startRequestId": "x" * 201}, "INVALID_INPUTS", "startRequestId"),
        ({"startRequestId": "line\nbreak"}, "INVALID_INPUTS", "startRequestId"),
        ({"streamEvents": "perhaps"}, "INVALID_INPUTS", "streamEvents"),
    ],
)
def test_bad_call_inputs_are_refused_by_code(
    server: InferenceProcess, call: dict[str, Any], code: str, named: str
) -> None:
    """What this server does not have is refused with upstream's code and with what it has."""
    assert named in refused(server.post({"prompt": "a cat"}, **call), 400, code)


def test_another_pipeline_is_refused_before_its_image_is_looked_at(server: InferenceProcess) -> None:
    """A request for an image pipeline is told about the pipeline, whatever it brings as an image."""
    answer = server.post({"prompt": "a cat", "image": "no base64 at all!"}, PIPELINE="StableDiffusionInpaintPipeline")
    refused(answer, 400, "NO_SUCH_PIPELINE")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[]",
        b"5",
        b"null",
        b'"text"',
        b"{}",
        b'{"modelInputs": null}',
        b'{"modelInputs": []}',
        b'{"modelInputs": {"prompt": "a cat"}, "callInputs": []}',
        b'{"modelInputs": {"prompt": "a cat"}, "callInputs": 5}',
        b'{"modelInputs": {"prompt": "a cat", "guidance_scale": NaN}}',
        b'{"modelInputs": {"prompt": "a cat", "guidance_scale": Infinity}}',
        b'{"modelInputs": {"prompt": "a cat", "guidance_scale": 1e999}}',
        b'{"modelInputs": {"prompt": "a cat", "seed": 1e999}}',
        b'{"modelInputs": {"prompt": "a cat", "seed": ' + b"9" * 5000 + b"}}",
        b'{"modelInputs": {"prompt": "\\ud800"}}',
        b'{"modelInputs": {"prompt": "a cat"}, "callInputs": {"MODEL_ID": "\\udfff"}}',
        b'{"modelInputs": {"prompt": "\xff"}}',
        b"[" * 100_000,
        b'{"modelInputs": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
        b"\x00" * 100,
    ],
)
def test_a_body_that_is_no_request_is_refused(server: InferenceProcess, body: bytes) -> None:
    """Anything but a JSON object of the right shape is a 400 in the wire's shape."""
    refused(server.session.post(server.url, data=body, timeout=DEADLINE_S), 400, "INVALID_INPUTS")


def test_null_is_as_good_as_left_out(server: InferenceProcess) -> None:
    """Clients that send null for what they do not set get the defaults."""
    inputs = dict.fromkeys(("negative_prompt", "width", "seed", "guidance_scale", "image", "num_images_per_prompt"))
    body = {"modelInputs": {"prompt": "a cat", "num_inference_steps": 1, **inputs}, "callInputs": None}
    answer = server.session.post(server.url, json=body, timeout=DEADLINE_S)
    assert answer.status_code == 200
    assert answer.json()["$meta"]["width"] == 256


def test_unknown_routes_and_methods_are_json_too(server: InferenceProcess) -> None:
    """The framework's own refusals come in the wire's shape."""
    session, url = server.session, server.url
    refused(session.get(f"{url}/nothing", timeout=DEADLINE_S), 404, "NO_SUCH_ROUTE")
    refused(session.post(f"{url}/nothing", json={}, timeout=DEADLINE_S), 404, "NO_SUCH_ROUTE")
    refused(session.get(f"{url}/", timeout=DEADLINE_S), 405, "METHOD_NOT_ALLOWED")
    refused(session.delete(f"{url}/requests/unknown", timeout=DEADLINE_S), 404, "NO_SUCH_REQUEST")
    refused(session.get(f"{url}/openapi.json", timeout=DEADLINE_S), 404, "NO_SUCH_ROUTE")


def test_strangers_learn_the_state_only(guarded: InferenceProcess) -> None:
    """Without a bearer the healthcheck tells state and gpu; with the right one all; a wrong one is refused."""
    url = f"{guarded.url}/healthcheck"
    assert requests.get(url, timeout=DEADLINE_S).json() == {"state": "healthy", "gpu": False}
    told = guarded.health()
    assert (told["deployment"], told["fingerprint"]) == ("mine", "abc")
    assert told["limits"]["body_bytes"] == {"max": 100_000}
    refused(requests.get(url, headers={"Authorization": "Bearer wrong"}, timeout=DEADLINE_S), 401, "UNAUTHORIZED")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", f"Basic {BEARER}", BEARER, "Bearer \xff\xfe"])
def test_every_other_route_needs_the_bearer(guarded: InferenceProcess, header: str | None) -> None:
    """No or a wrong bearer: 401 and the connection is closed."""
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    for method, path in (("POST", "/"), ("GET", "/metrics"), ("POST", "/shutdown"), ("DELETE", "/requests/x")):
        answer = requests.request(method, guarded.url + path, headers=headers, json={}, timeout=DEADLINE_S)
        refused(answer, 401, "UNAUTHORIZED")
        assert answer.headers["connection"] == "close"
    assert guarded.health()["state"] == "healthy"


def connect(server: InferenceProcess) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=DEADLINE_S)


def read_to_end(connection: socket.socket) -> bytes:
    """Everything until the server cuts the connection, whichever way it does it."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65536):
            received += data
    return received


@pytest.mark.parametrize("encoding", [f"Content-Length: {ENDLESS}", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("path", ["/", "/nothing"])
def test_a_body_without_end_and_without_bearer_is_cut(guarded: InferenceProcess, encoding: str, path: str) -> None:
    """A stranger's endless body gets a 401 before it is read, and its connection ends long before that body does."""
    with connect(guarded) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\n{encoding}\r\n\r\n".encode())
        assert connection.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 401"
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < ENDLESS:
                connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                sent += 4096
        assert sent < ENDLESS


def test_a_body_over_the_limit_is_refused_while_it_comes(guarded: InferenceProcess) -> None:
    """A body that says or turns out to be too large is a 413, without being read to its end."""
    refused(guarded.post({"prompt": "x" * 100_000}), 413, "BODY_TOO_LARGE")
    with connect(guarded) as connection:
        headers = f"Host: x\r\nAuthorization: Bearer {BEARER}\r\nTransfer-Encoding: chunked"
        connection.sendall(f"POST / HTTP/1.1\r\n{headers}\r\n\r\n".encode())
        for _ in range(25):
            connection.sendall(b"fa0\r\n" + b"x" * 4000 + b"\r\n")
        connection.sendall(b"1000\r\nx")  # nothing is sent after what is too much: it would meet a closed connection
        assert read_to_end(connection).startswith(b"HTTP/1.1 413")


def test_what_is_no_http_is_refused_in_json(guarded: InferenceProcess) -> None:
    """Garbage instead of HTTP, and a path of strange bytes, are a 400 in JSON and end the connection."""
    for garbage in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n"):
        with connect(guarded) as connection:
            connection.sendall(garbage)
            answer = read_to_end(connection)
        assert answer.startswith(b"HTTP/1.1 4")
        assert "$error" in json.loads(answer.rpartition(b"\r\n")[2])


def test_who_leaves_within_a_body_is_a_line_in_the_log(guarded: InferenceProcess) -> None:
    """A connection that ends before its body does is an ordinary refusal, not a failure of the server."""
    before = guarded.log().count("refused, INVALID_INPUTS")
    with connect(guarded) as connection:
        headers = f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {BEARER}\r\nContent-Length: 100\r\n\r\n"
        connection.sendall(headers.encode() + b"{")
    wait_until(lambda: guarded.log().count("refused, INVALID_INPUTS") > before, "the refusal in the log")
    assert "Traceback" not in guarded.log()


def test_the_bearer_is_in_no_log(guarded: InferenceProcess) -> None:
    """Neither the right bearer nor a wrong one is logged."""
    requests.get(guarded.url, headers={"Authorization": "Bearer tried-secret"}, timeout=DEADLINE_S)
    assert BEARER not in guarded.log()
    assert "tried-secret" not in guarded.log()


def test_connections_that_send_nothing_or_no_end_are_cut(guarded: InferenceProcess, stalled: Stalled) -> None:
    """No bytes, headers without end, and a body that stops half way: each connection ends by itself.

    They take half a minute to end, so this comes last, and they were begun first.
    """
    assert read_to_end(stalled.silent) == b""
    with contextlib.suppress(OSError):
        stalled.slow.sendall(b"x")
    assert read_to_end(stalled.slow) == b""
    answer = read_to_end(stalled.half)
    assert answer.startswith(b"HTTP/1.1 408")
    assert json.loads(answer.rpartition(b"\r\n")[2])["$error"]["code"] == "TOO_SLOW"
    assert guarded.health()["state"] == "healthy"
