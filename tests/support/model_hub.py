"""A Hub of models on loopback: `huggingface_hub` downloads one model from it, a gated one with its token alone."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c" * 40


@dataclass
class ModelHub:
    """`asked`: paths, in the order in which they were asked for."""

    url: str
    asked: list[str] = field(default_factory=list)


@contextlib.contextmanager
def running_model_hub(model_id: str, folder: Path, token: str) -> Iterator[ModelHub]:
    """Serves the files of `folder` as the gated model `model_id`.

    Source: https://huggingface.co/docs/hub/api (routes), https://huggingface.co/docs/huggingface_hub (headers)
    """
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append(path)
            resolve = f"/{model_id}/resolve/"
            if self.headers.get("Authorization") != f"Bearer {token}":
                self._answer(401, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
            elif path.startswith(f"/api/models/{model_id}/tree/"):
                entries = [
                    {"type": "file", "path": name, "size": file.stat().st_size, "oid": "0" * 40}
                    for name, file in files.items()
                ]
                self._answer(200, json.dumps(entries).encode())
            elif path.startswith(f"/api/models/{model_id}"):
                siblings = [{"rfilename": name} for name in files]
                self._answer(200, json.dumps({"id": model_id, "sha": COMMIT, "siblings": siblings}).encode())
            elif path.startswith(resolve) and (name := path.removeprefix(resolve).partition("/")[2]) in files:
                content = files[name].read_bytes()
                tag = f'"{hashlib.sha256(content).hexdigest()}"'
                self._answer(200, content, {"ETag": tag, "X-Repo-Commit": COMMIT})
            else:
                self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})

        do_HEAD = do_GET

        def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = ModelHub(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield hub
    server.shutdown()
    server.server_close()
