"""Fair as others run it, in tests: a proxy in front of a Fair server that cannot do, or does not see, all of that.

The hosted service lists no containers, knows no labels, and cannot stop anything.
"""

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

_CONTAINERS = re.compile(r"/api/v0/nodes/([^/]+)/containers")
_PROGRAMS = re.compile(r"/nodes/([^/]+)/programs(?:/\d+/info)?$")
_BUCKET = re.compile(r"/api/v0/buckets/(\d+)/")


class HostedFair:
    """`url`: where it listens; `lists`: whether it can list and delete containers.

    `away`: a node that is switched off. What is started there waits until `come_back()`.
    """

    def __init__(self, behind: str, *, lists: bool, away: str | None) -> None:
        self._lists, self._away = lists, away
        self._waiting_buckets: set[str] = set()
        self._waiting_puts: list[Callable[[], requests.Response]] = []
        fair = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _carry(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, answer = fair.answer(self.command, behind, self.path, dict(self.headers), body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_PUT = do_POST = do_DELETE = _carry

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, method: str, behind: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to one request."""
        containers = _CONTAINERS.match(path)
        if containers and not self._lists:
            return 404, b'{"error": "no such route"}'
        headers = {name: value for name, value in headers.items() if name not in ("Host", "Content-Length")}
        carry = partial(requests.request, method, behind + path, headers=headers, data=body, timeout=60)
        if (bucket := _BUCKET.match(path)) and bucket[1] in self._waiting_buckets:
            self._waiting_puts.append(carry)
            return 200, b"{}"
        programs = _PROGRAMS.search(path)
        if programs and programs[1] == self._away and method == "GET":
            return 200, b'{"status": "NotResponding"}'
        answer = carry()
        if programs and programs[1] == self._away:
            self._waiting_buckets.add(str(answer.json()["bucket_id"]))
        if containers and containers[1] == self._away:
            rows = [{**row, "status": "unreachable"} for row in answer.json()["containers"]]
            return 200, json.dumps({"containers": rows}).encode()
        return answer.status_code, answer.content

    def come_back(self) -> None:
        """The node is switched on, and runs what waited for it."""
        self._away = None
        self._waiting_buckets.clear()
        for put in self._waiting_puts:
            put()

    def close(self) -> None:
        """Listens no more."""
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def hosted_fair(behind: str, *, lists: bool = False, away: str | None = None) -> Iterator[HostedFair]:
    """Such a Fair in front of the Fair server at the address `behind`."""
    fair = HostedFair(behind, lists=lists, away=away)
    try:
        yield fair
    finally:
        fair.close()
