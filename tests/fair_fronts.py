"""Fair servers that are less than our own: one that cannot list containers, and stand-ins that answer as told."""

import contextlib
import json
from collections.abc import Iterator

import requests
from fair_servers import EMAIL, PASSWORD
from hostile_server import HostileServer, Line, Received, Script, hostile_server

from fair_client import DeadlineFairClient

_PASSED_ON = ("authorization", "content-type")


@contextlib.contextmanager
def fair_that_cannot_list(url: str, status: int = 404, body: str = "") -> Iterator[HostileServer]:
    """A front for the Fair server at `url` that knows no containers, as the hosted one: it answers them `status`."""

    def script(line: Line, request: Received) -> bool:
        if "/containers" in request.path:
            line.answer(status, body)
            return True
        headers = {name: value for name, value in request.headers.items() if name in _PASSED_ON}
        answer = requests.request(request.method, url + request.path, headers=headers, data=request.body, timeout=30)
        line.answer(answer.status_code, answer.content, Content_Type=answer.headers.get("Content-Type", "text/plain"))
        return True

    with hostile_server(script) as server:
        yield server


def logs_in(script: Script) -> Script:
    """A Fair server that logs everybody in, and goes on by `script`."""

    def answer(line: Line, request: Received) -> bool | None:
        if request.path.endswith("/auth/login"):
            line.answer(200, json.dumps({"token": "t"}))
            return True
        return script(line, request)

    return answer


def client_of(url: str, timeout_s: float = 10) -> DeadlineFairClient:
    """A client of such a server, logged in."""
    return DeadlineFairClient(url, EMAIL, PASSWORD, timeout_s=timeout_s)
