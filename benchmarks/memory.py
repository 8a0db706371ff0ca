"""Memory of each process of the local chain, as `make run` starts it: idle, while four visitors draw, and afterwards.

The proportional set size (PSS): what processes share is counted once. Goal: the page and the Fair server together at
most 350 MB. Linux only.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from benchmarks._machine import RESULTS
from benchmarks._servers import descendants, end
from fair_api.local_server import ROOT
from network.addresses import free_ports

VISITORS, PICTURES_EACH = 4, 5
GOAL_MB = 350
_START_S = 120.0
_SETTLE_S = 5.0
_NAMES = (
    ("inference_server.engine_process", "engine process"),
    ("inference_server", "inference server"),
    ("fair_server", "Fair server"),
    ("--server", "tunnel server"),
    ("--client", "tunnel client"),
    ("app.py", "page"),
)
_SETTINGS = re.compile(r"(FAIRCOMPUTE|ENDPOINT|INFERENCE|TUNNEL|MODEL|SPACE)_")


def main() -> None:
    """Prints the table, and keeps it with `--result`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--result", action="store_true", help="keep the table in benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, _running_page(Path(folder)) as (pid, url):
        time.sleep(_SETTLE_S)
        before = _memory_mb(pid)
        _draw(url)
        time.sleep(_SETTLE_S)
        idle = _memory_mb(pid)
        drawing = _while_drawing(pid, url)
        time.sleep(_SETTLE_S)
        after = _memory_mb(pid)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = [
        f"{today}; {os.cpu_count()} cores of {platform.machine()}, Python {platform.python_version()}",
        f"Memory (PSS) in MB; drawing: the highest of {VISITORS * PICTURES_EACH} pictures of {VISITORS} visitors",
        "(python -m benchmarks.memory)",
        f"{'':18} {'started':>8} {'idle':>8} {'drawing':>8} {'after':>8}",
    ]
    columns = (before, idle, drawing, after)
    lines += [_row(name, [column.get(name, 0.0) for column in columns]) for _, name in reversed(_NAMES)]
    both = [column.get("page", 0.0) + column.get("Fair server", 0.0) for column in columns]
    lines.append(f"{_row('page, Fair server', both)}   (goal: at most {GOAL_MB})")
    print("\n".join(lines))
    if arguments.result:
        (RESULTS / f"memory-{today}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(name: str, values: list[float]) -> str:
    return f"{name:18} " + " ".join(f"{value:8.0f}" for value in values)


@contextlib.contextmanager
def _running_page(folder: Path) -> Iterator[tuple[int, str]]:
    (port,) = free_ports(1)
    env = {name: value for name, value in os.environ.items() if not _SETTINGS.match(name)}
    env |= {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONUNBUFFERED": "1"}
    with (folder / "log").open("wb") as log:
        page = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=env, stdout=log, stderr=log)
    try:
        until_s = time.monotonic() + _START_S
        while b"The page is at" not in (folder / "log").read_bytes():
            if page.poll() is not None or time.monotonic() > until_s:
                raise SystemExit(f"the page does not serve. Its log:\n{(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.2)
        yield page.pid, f"http://127.0.0.1:{port}"
    finally:
        end(page)


def _draw(url: str) -> None:
    """One picture by the page's API. Raises: SystemExit with what came back in its place."""
    call = f"{url}/gradio_api/call/text_to_image"
    asked = requests.post(call, json={"data": ["a red apple", "", None, None, None, None, None]}, timeout=30).json()
    with requests.get(f"{call}/{asked['event_id']}", stream=True, timeout=300) as answer:
        lines = [line.decode() for line in answer.iter_lines() if line]
    last = json.loads(lines[-1].removeprefix("data: ")) if lines else None
    if not last or not last[0]:
        raise SystemExit(f"no picture: {lines[-3:]}")


def _while_drawing(pid: int, url: str) -> dict[str, float]:
    """The highest of each process."""
    highest: dict[str, float] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            for name, value in _memory_mb(pid).items():
                highest[name] = max(highest.get(name, 0.0), value)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with ThreadPoolExecutor(VISITORS) as pool:
            for drawing in [pool.submit(_draw, url) for _ in range(VISITORS * PICTURES_EACH)]:
                drawing.result()
    finally:
        over.set()
        watching.join()
    return highest


def _memory_mb(page: int) -> dict[str, float]:
    found: dict[str, float] = {}
    own = Path(f"/proc/{page}/cmdline").read_bytes()
    for pid, command in [(page, own), *descendants(page)]:
        words = command.decode(errors="replace").replace("\0", " ")
        name = next((name for part, name in _NAMES if part in words), words[:18])
        with contextlib.suppress(OSError, ProcessLookupError):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            match = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
            found[name] = found.get(name, 0.0) + (int(match[1]) / 1000 if match else 0.0)
    return found


if __name__ == "__main__":
    main()
