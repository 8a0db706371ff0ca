"""A Hub of models on loopback: `huggingface_hub` downloads one model from it, in ranges too, or a gated one by token.

`Trouble` has a switch for what goes wrong with a download: a line that breaks, one that is slow, a hub that refuses.
"""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "c" * 40
LARGE_BYTES = 100_000  # a larger file is in LFS
_CHUNK = 64 * 1024


@dataclass
class Trouble:
    """What goes wrong. `cuts`: after how many bytes each of the next answers with a large file is cut off;
    `short_by`: how many bytes those lack at their end, as if that were all; `statuses`: of the next such answers;
    `refusal`: (status, X-Error-Code) of every answer; `hold`: large answers wait in their middle until it is set.
    """

    cuts: list[int] = field(default_factory=list)
    short_by: int = 0
    changed: bool = False  # the bytes are others than their hash says
    statuses: list[int] = field(default_factory=list)
    refusal: tuple[int, str] | None = None
    hold: threading.Event | None = None
    without_ranges: bool = False


@dataclass
class ModelHub:
    """`asked`: paths, in the order in which they were asked for; `starts`: where the answers with large files began;
    `sent_bytes`: of large files in all.
    """

    url: str
    asked: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    sent_bytes: int = 0
    trouble: Trouble = field(default_factory=Trouble)


@contextlib.contextmanager
def running_model_hub(model_id: str, folder: Path, token: str | None) -> Iterator[ModelHub]:
    """Serves the files of `folder` as `model_id`, gated unless `token` is None.

    Source: https://huggingface.co/docs/hub/api (routes), https://huggingface.co/docs/huggingface_hub (headers)
    """
    files = {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()
    }
    bound = type("Handler", (_Handler,), {"model_id": model_id, "files": files, "token": token})
    server = _Server(("127.0.0.1", 0), bound)
    bound.hub = hub = ModelHub(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield hub
    finally:
        if hub.trouble.hold:
            hub.trouble.hold.set()
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that was killed is none."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ModelHub
    model_id: str
    token: str | None
    files: dict[str, bytes]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.asked.append(path)
        resolve = f"/{self.model_id}/resolve/"
        name = path.removeprefix(resolve).partition("/")[2]
        if self.hub.trouble.refusal:
            status, code = self.hub.trouble.refusal
            self._answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": "as the test wants it"})
        elif self.model_id not in path:
            self._answer(404 if self.headers.get("Authorization") else 401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif self.token and self.headers.get("Authorization") != f"Bearer {self.token}":
            self._answer(401, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
        elif path.startswith(f"/api/models/{self.model_id}/tree/"):
            self._answer(200, json.dumps([_row(name, content) for name, content in self.files.items()]).encode())
        elif path.startswith(f"/api/models/{self.model_id}/revision/") and not path.endswith(("/main", COMMIT)):
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith(f"/api/models/{self.model_id}"):
            siblings = [{"rfilename": name} for name in self.files]
            self._answer(200, json.dumps({"id": self.model_id, "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(resolve) and name in self.files:
            self._file(self.files[name])
        else:
            self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET

    def _file(self, content: bytes) -> None:
        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": COMMIT}
        large = len(content) > LARGE_BYTES and self.command == "GET"
        trouble = self.hub.trouble
        if large and trouble.statuses:
            self._answer(trouble.statuses.pop(0), b"")
            return
        start = 0
        if (asked := re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")) and not trouble.without_ranges:
            start = int(asked[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start : len(content) - trouble.short_by] if large else content[start:]
        if large and trouble.changed:
            body = bytes(len(body))
        self._head(206 if "Content-Range" in headers else 200, len(body), headers)
        if large:
            self.hub.starts.append(start)
            self._send_in_trouble(body, len(content) // 2 - start)
        elif self.command == "GET":
            self.wfile.write(body)

    def _send_in_trouble(self, body: bytes, middle: int) -> None:
        trouble = self.hub.trouble
        end = trouble.cuts.pop(0) if trouble.cuts else len(body)
        with contextlib.suppress(OSError):  # whoever asked has gone
            for begin in range(0, min(end, len(body)), _CHUNK):
                if trouble.hold and begin >= middle:
                    trouble.hold.wait()
                piece = body[begin : min(begin + _CHUNK, end)]
                self.wfile.write(piece)
                self.hub.sent_bytes += len(piece)
        if end < len(body):
            self.close_connection = True

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self._head(status, len(content), headers or {})
        if self.command == "GET":
            self.wfile.write(content)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def _row(name: str, content: bytes) -> dict[str, Any]:
    row = {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
    lfs = {"oid": _etag(content), "size": len(content), "pointerSize": 134}
    return row | ({"lfs": lfs} if len(content) > LARGE_BYTES else {})


def _etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
