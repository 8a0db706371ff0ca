"""Large bodies are refused before they are read, whoever says how large they are."""

import asyncio
import json
from collections.abc import Iterator

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from page.body_limit import BODY_BYTES_MAX, BodyLimit
from tests.support.page_service import StandInService, serve


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    page, url = serve(StandInService())
    yield url
    page.close(verbose=False)


def _parts(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b" " * 100_000


@pytest.mark.parametrize("path", ["queue/join", "run/text_to_image", "call/text_to_image", "call/v2/text_to_image"])
def test_no_way_in_takes_a_large_body(url: str, path: str) -> None:
    """Whether a caller tells the size or not, more than the most is answered with 413 and its reason."""
    kind = {"content-type": "application/json"}
    for body in (b" " * (BODY_BYTES_MAX + 1), _parts(30)):
        try:
            answer = httpx.post(f"{url}gradio_api/{path}", content=body, headers=kind, timeout=60)
        except (httpx.WriteError, httpx.ReadError):  # refused, and hung up before all was written
            continue
        assert (answer.status_code, "at most 1000000 bytes" in answer.json()["error"]) == (413, True)


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


@pytest.mark.parametrize(("sizes", "told", "status"), [
    ([10], None, 200),
    ([6, 4], "10", 200),
    ([6, 5], None, 413),
    ([11], "11", 413),
    ([11], "7", 413),
    ([4], "nonsense", 200),
])  # fmt: skip
def test_what_counts_is_what_comes(sizes: list[int], told: str | None, status: int) -> None:
    """A body is counted as it comes; a size that is told too low is of no use."""
    sent: list[Message] = []
    parts = [{"type": "http.request", "body": b"x" * size, "more_body": True} for size in sizes]
    parts[-1]["more_body"] = False

    async def receive() -> Message:
        return parts.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [] if told is None else [(b"content-length", told.encode())]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    asyncio.run(BodyLimit(_echo, most=10)(scope, receive, send))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == status
    if status == 413:
        assert json.loads(sent[1]["body"])["error"].startswith("A call has at most 10 bytes.")
