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

import demo_model

REPOSITORY = Path(__file__).resolve().parent.parent.parent
# What ends early when all is well may take long: the machine may be slow, and busy with other tests.
START_DEADLINE_S = 150.0
DEADLINE_S = 60.0


def wait_until(met: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
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
        answer: dict[str, Any] = self.session.get(f"{self.url}/healthcheck", timeout=DEADLINE_S, **options).json()
        return answer

    def wait_healthy(self) -> dict[str, Any]:
        wait_until(lambda: self.health()["state"] == "healthy", f"healthy; stderr: {self.log()}", START_DEADLINE_S)
        return self.health()

    def wait_ready(self) -> dict[str, Any]:
        wait_until(lambda: self.health()["engine"] == "ready", "the engine to be ready", START_DEADLINE_S)
        return self.health()

    def wait_failed(self) -> dict[str, Any]:
        """The health that said so: a moment later the model may be loaded again."""

        def failed() -> dict[str, Any] | None:
            told = self.health()
            return told if told["state"] == "failed" else None

        return dict(wait_until(failed, f"the state failed; stderr: {self.log()}", START_DEADLINE_S))

    def post(self, model_inputs: dict[str, Any], timeout_s: float = 120, **call_inputs: Any) -> requests.Response:
        body = {"modelInputs": model_inputs, "callInputs": call_inputs}
        return self.session.post(self.url, json=body, timeout=timeout_s)

    def stream(
        self, model_inputs: dict[str, Any], timeout_s: float = DEADLINE_S, **call_inputs: Any
    ) -> Iterator[dict[str, Any]]:
        """The lines of a streamed answer as they come; closing the generator hangs up."""
        body = {"modelInputs": model_inputs, "callInputs": {"streamEvents": 1, **call_inputs}}
        with self.session.post(self.url, json=body, timeout=timeout_s, stream=True) as response:
            assert response.status_code == 200, response.text
            for line in response.iter_lines(chunk_size=None):
                yield json.loads(line)

    def metrics(self) -> dict[str, float]:
        """All samples of /metrics, of one moment."""
        text = self.session.get(f"{self.url}/metrics", timeout=DEADLINE_S).text
        rows = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in rows}

    def metric(self, name: str) -> float:
        """The value of one sample, 0 when it is not there yet."""
        return self.metrics().get(name, 0.0)

    def steps_done(self) -> float:
        """How many steps of the model its engine processes have told, all drawings together.

        Not always all that were made: OpenVINO GenAI drops what it could not tell before a picture was done.
        """
        return self.metric("inference_step_seconds_count")

    @contextlib.contextmanager
    def frozen_engine(self) -> Iterator[None]:
        """Its engine process does nothing meanwhile: whatever is posted waits, and no drawing comes to its end."""
        pid = self.engine_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def engine_pid(self) -> int:
        """The engine process, found among the server's children; waits for one that runs Python already."""
        return int(wait_until(self.find_engine, "an engine process among the server's children"))

    def find_engine(self) -> int | None:
        """The same, None where there is none now."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in children:
            with contextlib.suppress(OSError):
                if b"inference_server.engine_process" in Path(f"/proc/{pid}/cmdline").read_bytes() and is_alive(
                    int(pid)
                ):
                    return int(pid)
        return None

    def stop(self, number: int = signal.SIGTERM, deadline_s: float = DEADLINE_S) -> int:
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


class HeldModel:
    """The demo model in a folder of its own, which an engine cannot load to the end before `give` is called."""

    def __init__(self, folder: Path) -> None:
        """`folder` is to be made."""
        self.folder, self._whole = folder, demo_model.folder()
        folder.mkdir()
        for part in self._whole.iterdir():
            if part.name != "model_index.json":
                (folder / part.name).symlink_to(part)
        os.mkfifo(folder / "model_index.json")  # what the engine reads first: it waits for whoever writes

    def give(self) -> None:
        """Waits for an engine that loads the model, and lets it go on."""
        index = self.folder / "model_index.json"
        with index.open("w") as to_reader:
            index.unlink()  # whoever opens it from here on finds a file
            index.symlink_to(self._whole / index.name)
            to_reader.write(index.read_text())


def picture(result: dict[str, Any], index: int | None = None) -> Image.Image:
    """The decoded picture of a result."""
    text = result["image_base64"] if index is None else result["images_base64"][index]
    decoded = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    decoded.load()
    return decoded
