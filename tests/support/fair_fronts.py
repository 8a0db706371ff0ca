"""Fair servers that are less than our own: one that cannot list containers, and stand-ins that answer as told."""

import contextlib
import json
import threading
from collections.abc import Container, Iterator

import requests

from fair_api.client import DeadlineFairClient
from tests.support.fair_servers import DEADLINE_S, EMAIL, PASSWORD
from tests.support.hostile_server import HostileServer, Line, Received, Script, hostile_server

_PASSED_ON = ("authorization", "content-type")


@contextlib.contextmanager
def fair_that_cannot_list(url: str, status: int = 404, body: str = "") -> Iterator[HostileServer]:
    """A front for the Fair server at `url` that knows no containers, as the hosted one: it answers them `status`."""

    def script(line: Line, request: Received) -> bool:
        if "/containers" in request.path:
            line.answer(status, body)
        else:
            _pass_on(url, line, request)
        return True

    with hostile_server(script) as server:
        yield server


@contextlib.contextmanager
def fair_that_reaches_not_all(url: str, away: Container[str]) -> Iterator[HostileServer]:
    """A front for the Fair server at `url` that tells the nodes `away` to be unreachable, for as long as they are in
    there; what is to run on them waits.
    """

    def script(line: Line, request: Received) -> bool:
        node = request.path.partition("/nodes/")[2].partition("/")[0]
        if node in away and request.method == "PUT":
            raise AssertionError(f"a program was put for {node}")
        answer = _ask(url, request)
        if request.path.endswith("/nodes/list"):
            told = answer.json()
            for row in told["nodes"]:
                row["status"] = "unreachable" if row["name"] in away else row.get("status")
            line.answer(answer.status_code, json.dumps(told))
        else:
            _answer(line, answer)
        return True

    with hostile_server(script) as server:
        yield server


@contextlib.contextmanager
def fair_with_expired_tokens(url: str, expired: Container[str], at_once: int) -> Iterator[HostileServer]:
    """A front that takes these tokens for expired, and says so when so many requests have come with one."""
    all_came = threading.Barrier(at_once)

    def script(line: Line, request: Received) -> bool:
        if request.headers.get("authorization", "").removeprefix("Bearer ") in expired:
            all_came.wait(DEADLINE_S)
            line.answer(401, "{}")
        else:
            _pass_on(url, line, request)
        return True

    with hostile_server(script) as server:
        yield server


def _pass_on(url: str, line: Line, request: Received) -> None:
    _answer(line, _ask(url, request))


def _ask(url: str, request: Received) -> requests.Response:
    headers = {name: value for name, value in request.headers.items() if name in _PASSED_ON}
    return requests.request(request.method, url + request.path, headers=headers, data=request.body, timeout=DEADLINE_S)


def _answer(line: Line, answer: requests.Response) -> None:
    line.answer(answer.status_code, answer.content, Content_Type=answer.headers.get("Content-Type", "text/plain"))


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
