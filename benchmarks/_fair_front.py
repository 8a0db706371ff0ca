"""What stands between the page and the Fair server while faults are tried: it fails, hangs, or tells something else."""

import datetime
import json
import threading
import time
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import requests

Mode = Literal["well", "401", "500", "hangs"]
_HANG_S = 60.0
_CARRIED = ("Authorization", "Content-Type")


class FairFront:
    """`mode`: how it is; `addresses`: node -> the address that is told of it; `clock_off_s`: how wrong its clock is;
    `faults`: how many answers were none, or told a wrong time.
    """

    def __init__(self, behind: str) -> None:
        self.mode: Mode = "well"
        self.addresses: dict[str, str] = {}
        self.clock_off_s = 0.0
        self.faults = 0
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _carry(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name: value for name in _CARRIED if (value := self.headers.get(name))}
                status, answer = front.answer(self.command, behind, self.path, headers, body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_PUT = do_POST = do_DELETE = _carry

            def date_time_string(self, timestamp: float | None = None) -> str:
                now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=front.clock_off_s)
                return format_datetime(now, usegmt=True)

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Whoever asked has gone."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, method: str, behind: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Status and body."""
        mode = self.mode
        self.faults += mode != "well" or self.clock_off_s != 0
        if mode in ("401", "500"):
            return int(mode), b'{"error": "a fault that is tried"}'
        if mode == "hangs":
            until = time.monotonic() + _HANG_S
            while self.mode == "hangs" and time.monotonic() < until:
                time.sleep(0.05)
        answer = requests.request(method, behind + path, headers=headers, data=body, timeout=60)
        if self.addresses and path.endswith("/nodes/list") and answer.ok:
            told = answer.json()
            for row in told["nodes"]:
                row["host_address"] = self.addresses.get(row["name"], row.get("host_address"))
            return answer.status_code, json.dumps(told).encode()
        return answer.status_code, answer.content

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
