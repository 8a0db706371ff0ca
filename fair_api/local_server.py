"""The Fair server of this machine, started lazily when no other is configured.

It is a `python -m fair_server` on loopback, with an account made for this run. It ends with this process, however
that ends: it watches its standard input, whose other end is here.
"""

import json
import logging
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from queue import Empty, Queue

from errors import FairError
from fair_api.client import DeadlineFairClient

log = logging.getLogger(__name__)

NODE = "local"
INFERENCE_IMAGE = "inference-server"
ROOT = Path(__file__).resolve().parent.parent
_EMAIL = "local@localhost"
_READY_S = 30.0
_STOP_S = 10.0
_FOR_PROGRAMS = ("INFERENCE_DEVICE",)  # which of our settings are the inference server's own
_TOKEN_OF_MODELS = "HF_TOKEN"  # noqa: S105  # its name; a gated model is fetched with it


class LocalFair:
    """A Fair server as a child process. `tunnel_image`: the image name that stands for `tunnel_program` (a path)."""

    def __init__(self, *, tunnel_image: str, tunnel_program: str | None) -> None:
        self._tunnel_image = tunnel_image
        self._tunnel_program = tunnel_program
        self._password = secrets.token_urlsafe(24)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._client: DeadlineFairClient | None = None

    def connect(self) -> DeadlineFairClient:
        """A logged-in client; starts the server if it does not run (any more).

        Raises: FairError if it does not come up.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None or self._client is None:
                self._end()
                self._client = DeadlineFairClient(self._start(), _EMAIL, self._password)
            return self._client

    def close(self) -> None:
        """Ends the server and with it everything that it runs."""
        with self._lock:
            self._end()

    def _start(self) -> str:
        """Starts the server; returns its address once it is ready."""
        with tempfile.TemporaryDirectory(prefix="local-fair-") as folder:  # read once: nobody has to call `close`
            nodes = Path(folder) / "nodes.toml"
            nodes.write_text(self._nodes_toml())
            self._process = self._server(nodes)
            log.info("started this machine's own Fair server, process %d", self._process.pid)
            return self._read_address(self._process)

    def _server(self, nodes: Path) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [
                sys.executable,
                *("-m", "fair_server", "--host", "127.0.0.1", "--port", "0"),
                *("--nodes", str(nodes), "--executor", "process", "--until-stdin-closes"),
                *("--pass-on", _TOKEN_OF_MODELS),
            ],
            cwd=ROOT,
            env=self._environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the server in order
        )

    def _read_address(self, process: subprocess.Popen[str]) -> str:
        lines: Queue[str] = Queue()

        def read() -> None:
            for line in process.stdout or ():
                lines.put(line)
            lines.put("")

        threading.Thread(target=read, name="local-fair-output", daemon=True).start()
        try:
            line = lines.get(timeout=_READY_S)
        except Empty:
            line = f"(no line within {_READY_S:g} s)"
        address = next((word for word in line.split() if word.startswith("http://")), None)
        if address is None:
            raise FairError(
                "This machine's own Fair server",
                tried="start it",
                came_back=f"it said: {line.strip() or f'nothing, and ended with exit code {process.wait(_STOP_S)}'}",
                next_step="Run `python -m fair_server` by hand to see why.",
            )
        return address.rstrip(",.")

    def _nodes_toml(self) -> str:
        """The node of this machine: JSON's strings and arrays are TOML's, too."""
        server = ["-m", "inference_server", "--host", "127.0.0.1", "--port", "{port:8000}"]
        images = {INFERENCE_IMAGE: [sys.executable, *server]}
        if self._tunnel_program:
            images[self._tunnel_image] = [self._tunnel_program]
        rows = "\n".join(f"{json.dumps(name)} = {json.dumps(argv)}" for name, argv in images.items())
        return f'[[node]]\nname = "{NODE}"\nhost_address = "127.0.0.1"\n\n[node.images]\n{rows}\n'

    def _environment(self) -> dict[str, str]:
        """This process's own, without what configures another chain, and with the account of this run."""
        others = ("FAIRCOMPUTE_", "ENDPOINT_", "MODEL_", "INFERENCE_", "TUNNEL", "GRADIO_")
        kept = {
            name: value for name, value in os.environ.items() if name in _FOR_PROGRAMS or not name.startswith(others)
        }
        path = os.pathsep.join(part for part in (str(ROOT), kept.get("PYTHONPATH")) if part)
        return {
            **kept,
            "PYTHONPATH": path,
            "FAIRCOMPUTE_EMAIL": _EMAIL,
            "FAIRCOMPUTE_PASSWORD": self._password,
        }

    def _end(self) -> None:
        process, self._process, self._client = self._process, None, None
        if process is not None:
            if process.stdin:
                process.stdin.close()
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
