"""A little Hugging Face Hub on loopback: a real HTTP server that speaks the routes by which Spaces are kept.

It answers what `huggingface_hub` asks when `HF_ENDPOINT` leads to it, keeps Spaces in memory, "builds" them as their
runtime is asked for, and refuses what the real one refuses: a binary file outside LFS, a file over 10 MB, a token that
may only read, a name that is taken. `Trouble` has a switch for each of these and for what a Space may come to.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MAXIMUM_BYTES = 10_000_000
TOKEN = "hf_of_the_test"
WANTS_PRO = (
    "Static Spaces are free for everyone, but hosting Gradio and Docker Spaces on free cpu-basic requires a PRO "
    "subscription."
)


@dataclass
class Trouble:
    """What goes wrong. `role`: the token's; `statuses`: the end of `METHOD path` -> the status of the answer."""

    role: str = "write"
    wants_pro: bool = False
    statuses: dict[str, int] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)  # Spaces that this account may not see
    build_error: list[str] = field(default_factory=list)  # the last lines of a build that fails
    after_build: str = "RUNNING"  # or RUNTIME_ERROR, CONFIG_ERROR, PAUSED
    message: str = ""  # the runtime's errorMessage
    builds_for: int = 2  # times that the runtime is asked for
    page_status: int = 200
    clock_s: float = 0.0  # how far the page's clock is ahead


@dataclass
class KeptSpace:
    """One Space. `asked`: how often its runtime has been asked for since the last commit."""

    secrets: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    stage: str = "RUNNING"
    running: str | None = None
    private: bool = False
    asked: int = 0
    build_log: list[str] = field(default_factory=list)
    run_log: list[str] = field(default_factory=lambda: ["The page is at http://0.0.0.0:7860"])

    def commit(self, files: dict[str, bytes], gone: list[str]) -> str:
        """Changes the files; a build begins."""
        for path in gone:
            del self.files[path]
        self.files.update(files)
        self.commits.append(hashlib.sha1(repr((len(self.commits), sorted(self.files))).encode()).hexdigest())
        self.stage, self.asked = "BUILDING", 0
        self.build_log = ["===== Build Queued =====", "--> RUN pip install -r requirements.txt"]
        return self.commits[-1]


class FakeHub:
    """The server. `url`: for HF_ENDPOINT; `page_url`: where the Spaces' page is served; `requests`: what was asked."""

    def __init__(self) -> None:
        self.spaces: dict[str, KeptSpace] = {}
        self.trouble = Trouble()
        self.workers: list[str] | None = None
        self.absences: dict[str, dict[str, Any]] = {}  # of those that are paused
        self.requests: list[str] = []
        self._servers = [_server(_HubHandler, self), _server(_PageHandler, self)]
        self.url, self.page_url = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def environment(self, home: str) -> dict[str, str]:
        """What a program needs in its environment to take this for the Hub, and to know of no other login."""
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN, "HF_HOME": home}

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


@contextlib.contextmanager
def running_fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    try:
        yield hub
    finally:
        hub.close()


class RefusedError(Exception):
    """An answer that is none of success."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


class _PageHandler(_Handler):
    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate((timestamp or time.time()) + self.hub.trouble.clock_s, usegmt=True)

    def do_GET(self) -> None:
        if self.path not in ("/worker-status", "/worker"):
            self.answer(self.hub.trouble.page_status, b"<title>the page</title>")
        elif self.hub.workers is None:
            self.answer(404, b"")
        elif self.path == "/worker":
            self._take_line()
        else:
            workers = [{"name": name, "absence": self.hub.absences.get(name)} for name in self.hub.workers]
            self.answer(200, {"workers": workers})

    def _take_line(self) -> None:
        """A WebSocket's handshake, then the end of the line.

        Source: RFC 6455, section 1.3
        """
        accept = f"{self.headers['Sec-WebSocket-Key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(accept).digest()).decode())
        self.end_headers()
        self.close_connection = True


class _HubHandler(_Handler):
    def do_GET(self) -> None:
        self._do()

    def do_POST(self) -> None:
        self._do()

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(self._chunks())
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        try:
            self._refuse_as_asked(path)
            self._route(path, body)
        except RefusedError as error:
            headers = {"X-Error-Message": error.message, **({"X-Error-Code": error.code} if error.code else {})}
            self.answer(error.status, {"error": error.message}, headers)

    def _refuse_as_asked(self, path: str) -> None:
        for end, status in self.hub.trouble.statuses.items():
            if f"{self.command} {path}".endswith(end):
                raise RefusedError(status, "as the test wants it")

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _route(self, path: str, body: bytes) -> None:
        if path == "/api/whoami-v2":
            self._authorize(write=False)
            role = self.hub.trouble.role
            self.answer(200, {"name": "you", "orgs": [], "auth": {"accessToken": {"role": role}}})
        elif path == "/api/validate-yaml":
            self.answer(200, {"warnings": [], "errors": []})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := re.fullmatch(r"/api/spaces/([^/]+/[^/]+)(/.*)?", path):
            self._space_route(match[1], match[2] or "", body)
        else:
            raise RefusedError(404, f"the fake hub has no {self.command} {path}")

    def _space_route(self, name: str, rest: str, body: bytes) -> None:
        space = self.hub.spaces.get(name)
        if space is None or (space.private and not self._is_known()):
            raise RefusedError(404 if self._is_known() else 401, "Repository not found", "RepoNotFound")
        if self.command == "GET" and rest in ("", "/runtime", "/tree/main"):
            self.answer(200, {"": self._info, "/runtime": self._runtime, "/tree/main": self._tree}[rest](name, space))
            return
        self._authorize(write=True)
        if rest.startswith("/logs/"):
            self._log(space, space.build_log if rest.endswith("build") else space.run_log)
        elif rest in ("/secrets", "/variables"):
            kept = space.secrets if rest == "/secrets" else space.variables
            if self.command == "POST":
                told = json.loads(body)
                kept[told["key"]] = told["value"]
            shown = {key: {} if rest == "/secrets" else {"value": value} for key, value in kept.items()}
            self.answer(200, shown)
        elif rest == "/preupload/main":
            self.answer(200, {"files": [_mode(space, file) for file in json.loads(body)["files"]]})
        elif rest == "/commit/main":
            self._commit(name, space, body)
        elif rest == "/restart":
            space.stage = "BUILDING"
            self.answer(200, self._runtime(name, space))
        else:
            raise RefusedError(404, f"the fake hub has no {self.command} {rest} of a Space")

    def _is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _authorize(self, *, write: bool) -> None:
        if not self._is_known():
            raise RefusedError(401, "Invalid credentials in Authorization header")
        if write and self.hub.trouble.role == "read":
            raise RefusedError(403, "Forbidden: this token may only read")

    def _create(self, wish: dict[str, Any]) -> None:
        self._authorize(write=True)
        name = f"{wish['organization']}/{wish['name']}"
        if wish["organization"] != "you":
            raise RefusedError(403, f"You don't have the rights to create a Space under {wish['organization']}")
        if name in self.hub.spaces or name in self.hub.trouble.taken:
            raise RefusedError(409, "You already created this space repo")
        if self.hub.trouble.wants_pro:
            raise RefusedError(402, WANTS_PRO)
        space = self.hub.spaces[name] = KeptSpace(stage="NO_APP_FILE")
        space.secrets = {row["key"]: row["value"] for row in wish.get("secrets", [])}
        space.variables = {row["key"]: row["value"] for row in wish.get("variables", [])}
        space.commit({".gitattributes": b"*.bin filter=lfs\n", "README.md": b"---\nsdk: gradio\n---\n"}, [])
        space.stage = "NO_APP_FILE"
        self.answer(200, {"url": f"{self.hub.url}/spaces/{name}", "name": name})

    def _info(self, name: str, space: KeptSpace) -> dict[str, Any]:
        sha = space.commits[-1] if space.commits else None
        return {"id": name, "sha": sha, "private": space.private, "host": self.hub.page_url, "sdk": "gradio"}

    def _runtime(self, _name: str, space: KeptSpace) -> dict[str, Any]:
        trouble = self.hub.trouble
        space.asked += 1
        if space.stage == "BUILDING" and space.asked > trouble.builds_for:
            space.stage, space.running = trouble.after_build, space.commits[-1] if space.commits else None
            if trouble.build_error:
                space.stage = "BUILD_ERROR"
                space.build_log += trouble.build_error
        hardware = {"current": "cpu-basic", "requested": "cpu-basic"}
        told = {"stage": space.stage, "hardware": hardware, "gcTimeout": 172800, "sha": space.running}
        return {**told, **({"errorMessage": trouble.message} if trouble.message else {})}

    def _tree(self, _name: str, space: KeptSpace) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": path, "size": len(content), "oid": _git_hash(content)}
            for path, content in sorted(space.files.items())
        ]

    def _log(self, space: KeptSpace, lines: list[str]) -> None:
        """Lines as they come, for as long as the Space builds."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        told = 0
        with contextlib.suppress(OSError):
            while told < len(lines) or space.stage == "BUILDING":
                for line in lines[told:]:
                    event = {"data": f"{line}\n", "timestamp": "2026-01-01T00:00:00Z"}
                    self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                    told += 1
                self.wfile.flush()
                time.sleep(0.05)
        self.close_connection = True

    def _commit(self, name: str, space: KeptSpace, body: bytes) -> None:
        files, gone = {}, []
        for row in map(json.loads, body.splitlines()):
            value = row["value"]
            if row["key"] == "header" and value.get("parentCommit") not in (None, *space.commits[-1:]):
                raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if row["key"] == "deletedFile":
                gone.append(value["path"])
        for path, content in files.items():
            if len(content) > MAXIMUM_BYTES:
                raise RefusedError(400, f"Your push was rejected: {path} is larger than 10 MB and not in LFS")
            if not _is_text(content):
                raise RefusedError(400, f"Your push was rejected: {path} is a binary file and not in LFS")
        commit = space.commit(files, gone)
        url = f"{self.hub.url}/spaces/{name}/commit/{commit}"
        self.answer(200, {"success": True, "commitUrl": url, "commitOid": commit, "hookOutput": ""})


def _mode(space: KeptSpace, file: dict[str, Any]) -> dict[str, Any]:
    regular = _is_text(base64.b64decode(file["sample"])) and file["size"] <= MAXIMUM_BYTES
    kept = space.files.get(file["path"])
    told = {"path": file["path"], "uploadMode": "regular" if regular else "lfs", "shouldIgnore": False}
    return {**told, "oid": _git_hash(kept) if kept is not None else None}


def _is_text(content: bytes) -> bool:
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError as error:
        return error.start > len(content) - 4  # a sample may end within a character


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _server(handler: type[_Handler], hub: FakeHub) -> ThreadingHTTPServer:
    bound = type(handler.__name__, (handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), bound)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server
