"""Starts a real `python -m inference_server` on loopback for the tests, and speaks to it as a client would."""

import base64
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import requests
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
START_DEADLINE_S = 90.0


def wait_until(met: Callable[[], Any], what: str, deadline_s: float = 30.0) -> Any:
    """The first truthy answer of `met`. Raises: AssertionError naming `what` at the deadline."""
    until_s = time.monotonic() + deadline_s
    while time.monotonic() < until_s:
        answer = met()
        if answer:
            return answer
        time.sleep(0.02)
    raise AssertionError(f"waited {deadline_s:g} s in vain for: {what}")


def is_alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class InferenceProcess:
    """One running server; `url` is where it listens."""

    def __init__(self, *arguments: str, config: dict[str, Any] | None = None, **environment: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.stderr_path = Path(self._folder.name) / "stderr"
        command = [sys.executable, "-m", "inference_server", "--port", "0", *arguments]
        if config is not None:
            config_path = Path(self._folder.name) / "endpoint.json"
            config_path.write_text(json.dumps(config))
            command += ["--config", str(config_path)]
        unset = ("MODEL_ID", "MODEL_REVISION", "INFERENCE_ENGINE")
        clean = {name: value for name, value in os.environ.items() if name not in unset}
        with self.stderr_path.open("wb") as stderr:
            self.process = subprocess.Popen(
                command, cwd=REPOSITORY, env=clean | environment, stdout=subprocess.PIPE, stderr=stderr
            )
        self.bearer = (config or {}).get("bearer")
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = False
        if self.bearer:
            self.session.headers["Authorization"] = f"Bearer {self.bearer}"
        self.line = ""

    def wait_listening(self) -> str:
        """The line that the server printed; sets `url`."""
        reader = threading.Thread(target=self._read_line, daemon=True)
        reader.start()
        reader.join(START_DEADLINE_S)
        assert self.line, f"no line within {START_DEADLINE_S} s; stderr: {self.log()}"
        self.url = self.line.split()[-1]
        return self.line

    def _read_line(self) -> None:
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline().decode().strip()

    def log(self) -> str:
        return self.stderr_path.read_text(errors="replace")

    def health(self, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.session.get(f"{self.url}/healthcheck", timeout=10, **options).json()
        return answer

    def wait_healthy(self) -> dict[str, Any]:
        wait_until(lambda: self.health()["state"] == "healthy", f"healthy; stderr: {self.log()}", START_DEADLINE_S)
        return self.health()

    def wait_ready(self) -> dict[str, Any]:
        wait_until(lambda: self.health()["engine"] == "ready", "the engine to be ready", START_DEADLINE_S)
        return self.health()

    def post(self, model_inputs: dict[str, Any], timeout_s: float = 60, **call_inputs: Any) -> requests.Response:
        body = {"modelInputs": model_inputs, "callInputs": call_inputs}
        return self.session.post(self.url, json=body, timeout=timeout_s)

    def stream(
        self, model_inputs: dict[str, Any], timeout_s: float = 60, **call_inputs: Any
    ) -> Iterator[dict[str, Any]]:
        """The lines of a streamed answer as they come; closing the generator hangs up."""
        body = {"modelInputs": model_inputs, "callInputs": {"streamEvents": 1, **call_inputs}}
        with self.session.post(self.url, json=body, timeout=timeout_s, stream=True) as response:
            assert response.status_code == 200, response.text
            for line in response.iter_lines(chunk_size=None):
                yield json.loads(line)

    def metric(self, name: str) -> float:
        """The value of one sample of /metrics, 0 when it is not there yet."""
        for line in self.session.get(f"{self.url}/metrics", timeout=10).text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
        return 0.0

    def engine_pid(self) -> int:
        """The engine process, found among the server's children; waits for one that runs Python already."""
        return int(wait_until(self._find_engine, "an engine process among the server's children"))

    def _find_engine(self) -> int | None:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in children:
            with contextlib.suppress(OSError):
                if b"inference_server.engine_process" in Path(f"/proc/{pid}/cmdline").read_bytes() and is_alive(
                    int(pid)
                ):
                    return int(pid)
        return None

    def stop(self, number: int = signal.SIGTERM, deadline_s: float = 10) -> int:
        """The exit code after the signal."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(deadline_s)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.session.close()
            self._folder.cleanup()


@contextlib.contextmanager
def running(*arguments: str, config: dict[str, Any] | None = None, **environment: str) -> Iterator[InferenceProcess]:
    """A server that listens; it is ended at the end."""
    server = InferenceProcess(*arguments, config=config, **environment)
    try:
        server.wait_listening()
        yield server
    finally:
        server.stop()


def picture(result: dict[str, Any], index: int | None = None) -> Image.Image:
    """The decoded picture of a result."""
    text = result["image_base64"] if index is None else result["images_base64"][index]
    decoded = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    decoded.load()
    return decoded
