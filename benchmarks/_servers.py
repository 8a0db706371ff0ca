"""Servers for the benchmarks to measure, each a process of its own on loopback, and a client that asks one of them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).resolve().parent.parent
START_DEADLINE_S = 600.0  # a GPU's first start may take minutes
ANSWER_DEADLINE_S = 600.0


@dataclass(frozen=True)
class Picture:
    """What one request took."""

    wall_s: float  # on the client's clock, from the post to the whole answer
    inference_s: float  # as the server told it


@dataclass(frozen=True)
class Server:
    """A server that listens."""

    name: str
    url: str
    pid: int
    log_path: Path

    def draw(self, session: requests.Session, model_inputs: dict[str, Any], **call_inputs: Any) -> Picture:
        """Raises: SystemExit, with the server's refusal."""
        body = {"modelInputs": model_inputs, "callInputs": call_inputs}
        begin = time.perf_counter()
        response = session.post(self.url, json=body, timeout=ANSWER_DEADLINE_S)
        answer = response.json()
        wall_s = time.perf_counter() - begin
        if "image_base64" not in answer:
            raise SystemExit(f"{self.name} drew nothing: {answer}")
        return Picture(wall_s, answer["$timings"]["inference"] / 1000)

    def health(self) -> dict[str, Any]:
        answer: dict[str, Any] = requests.get(f"{self.url}/healthcheck", timeout=30).json()
        return answer

    def engine_pids(self) -> list[int]:
        """The server's engine processes; on Linux."""
        return [pid for pid, command in descendants(self.pid) if b"inference_server.engine_process" in command]

    def compiling_lines(self) -> list[str]:
        """What the engine said of compiling, oldest first."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return [line for line in lines if line.startswith("compiling: ")]

    def log_tail(self) -> str:
        return self.log_path.read_text(errors="replace")[-3000:]


@contextlib.contextmanager
def inference_server(name: str, config: dict[str, Any]) -> Iterator[Server]:
    """Our server with this `endpoint.json`, healthy."""
    with tempfile.TemporaryDirectory() as folder:
        config_path = Path(folder, "endpoint.json")
        # Nothing is written elsewhere, and nothing that an earlier run has compiled is found.
        config_path.write_text(json.dumps({"compile_cache": folder} | config), encoding="utf-8")
        arguments = ["inference_server", "--port", "0", "--config", str(config_path)]
        with _running(name, arguments) as server:
            _wait_healthy(server)
            yield server


@contextlib.contextmanager
def plain_diffusers(name: str, model_folder: Path, device: str, *, compiled: bool = False) -> Iterator[Server]:
    """The baseline, having drawn once."""
    more = ["compiled"] if compiled else []
    with _running(name, ["benchmarks._plain_diffusers", str(model_folder), device, *more]) as server:
        yield server


@contextlib.contextmanager
def _running(name: str, arguments: list[str]) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        log_path = Path(folder, "log")
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
            )
        try:
            line = _first_line(process)
            if not line:
                told = log_path.read_text(errors="replace")[-3000:]
                raise SystemExit(f"{name} did not start within {START_DEADLINE_S:g} s. Its log:\n{told}")
            yield Server(name, line.split()[-1], process.pid, log_path)
        finally:
            end(process)
            if process.stdout is not None:
                process.stdout.close()


@contextlib.contextmanager
def running(command: list[str], env: Mapping[str, str]) -> Iterator[None]:
    """A program that says nothing, in the repository's folder, for as long as the block lasts; `env`: beside ours."""
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        end(process)


def end(process: "subprocess.Popen[Any]") -> None:
    """Tells a program to end, and kills it when it has not within 20 s."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def kill(pid: int) -> None:
    """Of one process that is below us; it may have ended already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> Iterator[tuple[int, bytes]]:
    """All processes below this one, each with its command line; those that are gone already are left out."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                yield child, Path(f"/proc/{child}/cmdline").read_bytes()
                yield from descendants(child)


def _first_line(process: "subprocess.Popen[str]") -> str:
    """Empty when it ended or said nothing in time."""
    lines: list[str] = []

    def read() -> None:
        if process.stdout is not None:
            lines.append(process.stdout.readline().strip())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(START_DEADLINE_S)
    return lines[0] if lines else ""


def _wait_healthy(server: Server) -> None:
    until_s = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < until_s:
        health = server.health()
        if health["state"] == "healthy":
            return
        if health["state"] == "failed":
            raise SystemExit(f"{server.name} cannot load its model: {health.get('reason')}\n{server.log_tail()}")
        time.sleep(0.2)
    raise SystemExit(f"{server.name} was not healthy within {START_DEADLINE_S:g} s. Its log:\n{server.log_tail()}")
