"""The two real programs of one line, each in its namespace: started, killed, frozen, and what they say."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import _lines_engine
from benchmarks._namespaces import SPACE_ADDRESS, TwoMachines
from fair_api.local_server import ROOT

PORT = 7860
_END_S = 45.0  # a worker that is told to end finishes what it draws


class _Program:
    """One program; it leads a process group of its own."""

    def __init__(self, namespace: str, module: str, arguments: list[str], log: Path, env: dict[str, str]) -> None:
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", namespace, sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                text=True,
            )

    def send(self, number: signal.Signals) -> None:
        """To the whole group, the engine process included."""
        os.killpg(self.process.pid, number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> bool:
        """A group that is killed, or a program that is told to end. Returns, once it has, whether it was killed."""
        killed = number is signal.SIGKILL
        if number is signal.SIGKILL:
            self.send(number)
        else:
            self.process.send_signal(number)
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            killed = True
            self.send(signal.SIGKILL)
            self.process.wait()
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        return killed


class Programs:
    """`hear(told)` is called with each object that the Space prints, on a thread of its own."""

    def __init__(self, machines: TwoMachines, folder: Path, tls: Path, hear: Callable[[dict[str, Any]], None]) -> None:
        self._machines, self._folder, self._tls, self._hear = machines, folder, tls, hear
        self._env = {"WORKER_KEY": "k" * 64}
        self.drawn_file = folder / "drawn"
        self.drawn_file.write_text("")
        self.ready, self.connected = threading.Event(), threading.Event()
        self._asking, self._starting = threading.Lock(), threading.Lock()
        self._is_closed = False
        self._started: dict[str, _Program] = {}

    @property
    def space(self) -> _Program:
        return self._started["space"]

    @property
    def worker(self) -> _Program:
        return self._started["worker"]

    def start(self) -> None:
        """Both."""
        self.start_space()
        self.start_worker()

    def start_space(self) -> None:
        self.ready.clear()
        arguments = [SPACE_ADDRESS, str(PORT), str(self._tls / "certificate.pem"), str(self._tls / "key.pem")]
        log = self._folder / "space.log"
        space = self._start("space", self._machines.space, "benchmarks._lines_space", arguments, log, self._env)
        threading.Thread(target=self._listen, args=(space,), daemon=True).start()

    def start_worker(self) -> None:
        env = {
            **self._env,
            "WORKER_NAME": "box",
            "DATA_DIR": str(self._folder / "data"),
            "INFERENCE_ENGINE": _lines_engine.NAME,
            _lines_engine.DRAWN_FILE: str(self.drawn_file),
            "SSL_CERT_FILE": str(self._tls / "certificate.pem"),
        }
        arguments = ["--connect", f"https://{SPACE_ADDRESS}:{PORT}"]
        log = self._folder / "worker.log"
        self._start("worker", self._machines.home, "benchmarks._lines_worker", arguments, log, env)

    def _start(
        self, name: str, namespace: str, module: str, arguments: list[str], log: Path, env: dict[str, str]
    ) -> _Program:
        with self._starting:
            if self._is_closed:
                raise RuntimeError("the run has ended")
            self._started[name] = _Program(namespace, module, arguments, log, env)
            return self._started[name]

    def ask(self, **what: Any) -> bool:
        """Asks the Space for a picture; False when it is no more."""
        pipe = self.space.process.stdin
        try:
            with self._asking:
                if pipe is None or pipe.closed:
                    return False
                pipe.write(json.dumps(what) + "\n")
                pipe.flush()
        except (OSError, ValueError):
            return False
        return True

    def wait_ready(self, timeout_s: float) -> None:
        """Raises: RuntimeError when the Space does not serve in time."""
        if not self.ready.wait(timeout_s):
            log = (self._folder / "space.log").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"the Space did not serve within {timeout_s:g} s. Its log:\n{log}")

    def _listen(self, space: _Program) -> None:
        assert space.process.stdout is not None
        with space.process.stdout as lines:  # closed here alone: closing it elsewhere would wait for this thread
            for line in lines:
                told = json.loads(line)
                if told["kind"] == "ready":
                    self.ready.set()
                if told["kind"] == "connected":
                    self.connected.set()
                self._hear(told)

    def close(self) -> None:
        """Ends both, and lets none be started again."""
        with self._starting:
            self._is_closed = True
        for program in self._started.values():
            if program.process.poll() is None:
                program.send(signal.SIGCONT)
            with contextlib.suppress(ProcessLookupError):
                program.end()

    def is_kept(self, job_id: str) -> bool:
        """Whether the worker has the finished picture of this job on its disk."""
        return (self._folder / "data" / "results" / hashlib.sha256(job_id.encode()).hexdigest()).exists()

    def drawn(self) -> list[tuple[float, str]]:
        """Each picture that the engine finished: when, on the monotonic clock, and its prompt."""
        rows = (line.split(" ", 1) for line in self.drawn_file.read_text().splitlines())
        return [(float(at_s), prompt) for at_s, prompt in rows]


def wait_until(what: str, met: Callable[[], bool], timeout_s: float) -> None:
    """Raises: RuntimeError at the deadline."""
    until_s = time.monotonic() + timeout_s
    while not met():
        if time.monotonic() > until_s:
            raise RuntimeError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(0.02)
