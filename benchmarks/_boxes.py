"""Two GPU boxes and a tunnel node of one Fair server, on this machine: real programs, an engine of fixed step time."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import _lines_engine
from benchmarks._servers import ROOT, end
from fair_api.client import DeadlineFairClient
from fair_api.models import Container
from network.addresses import free_ports

BOXES = ("box1", "box2")
TUNNEL_NODE = "vm"
EMAIL, PASSWORD = "owner@localhost", "a password of benchmarks"
_IMAGE = "draws"
_READY_S = 60.0


@dataclass(frozen=True)
class BoxesFair:
    """The Fair server at `url`; `drawn_file`: what its boxes have finished, a line each."""

    url: str
    drawn_file: Path
    program: "subprocess.Popen[str]"
    secret: str = "a secret of benchmarks, long enough: 0123456789"
    ports: list[int] = field(default_factory=lambda: free_ports(5))

    def environment(self, *boxes: str, **changes: str) -> dict[str, str]:
        """The settings of a Space that draws on these boxes."""
        wanted = [BOXES.index(box) for box in boxes]
        return {
            "FAIRCOMPUTE_EMAIL": EMAIL,
            "FAIRCOMPUTE_PASSWORD": PASSWORD,
            "FAIRCOMPUTE_SERVER_ADDRESS": self.url,
            "INFERENCE_NODE": ",".join(boxes),
            "TUNNEL_NODE": TUNNEL_NODE,
            "INFERENCE_IMAGE": _IMAGE,
            "ENDPOINT_SECRET": self.secret,
            "DEPLOYMENT": "boxes",
            "INFERENCE_HOST_PORT": ",".join(str(self.ports[number]) for number in wanted),
            "TUNNEL_PUBLIC_PORT": ",".join(str(self.ports[2 + number]) for number in wanted),
            "TUNNEL_CONTROL_PORT": str(self.ports[4]),
            **changes,
        }

    def client(self) -> DeadlineFairClient:
        return DeadlineFairClient(self.url, EMAIL, PASSWORD, timeout_s=60)

    def containers(self) -> dict[str, list[Container]]:
        """All that were ever started, by node."""
        client = self.client()
        return {node: client.containers(node) or [] for node in (*BOXES, TUNNEL_NODE)}

    def starts(self) -> Counter[tuple[str, str]]:
        """How often each role was ever started on each node."""
        return Counter((node, str(row.role)) for node, rows in self.containers().items() for row in rows)

    def running(self) -> Counter[tuple[str, str]]:
        """The same of what runs now."""
        rows = self.containers().items()
        return Counter((node, str(row.role)) for node, these in rows for row in these if row.alive)

    def end(self, node: str, role: str) -> None:
        """Ends what runs there in that role, as Fair ends it."""
        client = self.client()
        for row in client.containers(node) or []:
            if row.role == role and row.alive:
                client.delete_container(node, row.id, timeout_s=60)


@contextlib.contextmanager
def boxes_fair(folder: Path, tunnel: str, temporary: Path | None = None, step_s: float = 0.05) -> Iterator[BoxesFair]:
    """Starts the Fair server, nothing on it yet; ends it and all that runs on it. `tunnel`: the tunnel's program;
    `temporary`: where it keeps what it copies into containers; `step_s`: what a step of its engines takes.
    """
    drawn_file = folder / "drawn.txt"
    drawn_file.touch()
    inference = [
        *("env", f"INFERENCE_ENGINE={_lines_engine.NAME}", f"{_lines_engine.DRAWN_FILE}={drawn_file}"),
        f"{_lines_engine.STEP_S}={step_s}",
        *(sys.executable, "-m", "benchmarks._lines_worker", "--host", "127.0.0.1", "--port", "{port:8000}"),
    ]
    nodes = folder / "nodes.toml"
    rows = [f'[[node]]\nname = "{box}"\n[node.images]\n{_IMAGE} = {json.dumps(inference)}\n' for box in BOXES]
    rows = [row + _tunnel_row(tunnel) for row in rows]
    nodes.write_text("\n".join([*rows, f'[[node]]\nname = "{TUNNEL_NODE}"\n[node.images]\n{_tunnel_row(tunnel)}']))
    log_path = folder / "fair.log"
    with log_path.open("wb") as log:
        program = subprocess.Popen(
            [sys.executable, "-m", "fair_server", "--port", "0", "--nodes", str(nodes), "--until-stdin-closes"],
            cwd=ROOT,
            env={**_environment(), **({"TMPDIR": str(temporary)} if temporary else {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield BoxesFair(_address(program, log_path), drawn_file, program)
    finally:
        if program.stdin:
            program.stdin.close()
        end(program)
        if program.stdout:
            program.stdout.close()


def _tunnel_row(tunnel: str) -> str:
    return f'"rapiz1/rathole:v0.5.0" = {json.dumps([tunnel])}\n'


def _environment() -> dict[str, str]:

    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part)
    return {**os.environ, "PYTHONPATH": path, "FAIRCOMPUTE_EMAIL": EMAIL, "FAIRCOMPUTE_PASSWORD": PASSWORD}


def _address(program: "subprocess.Popen[str]", log_path: Path) -> str:
    lines: list[str] = []

    def read() -> None:
        lines.append(program.stdout.readline() if program.stdout else "")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(_READY_S)
    address = next((word for word in "".join(lines).split() if word.startswith("http://")), None)
    if address is None:
        raise SystemExit(f"The Fair server was not ready within {_READY_S:g} s. Its log:\n{log_path.read_text()}")
    return address.rstrip(",.")
