"""A Space and a GPU box at home as networks: the page behind a TLS edge, the worker behind a router that hides it.

Five network namespaces: `page`, which lets nothing in but port 7860; `edge`, where haproxy ends TLS as a Space's host
does; a line between `edge` and the `router`, with delay and loss; `home` behind the router, which masquerades. It needs
root, haproxy and nftables.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._certificate import certify
from benchmarks._lines_engine import DRAWN_FILE, NAME
from benchmarks._link import Quality
from benchmarks._namespaces import SPACE_ADDRESS, TwoMachines, missing
from endpoint.credentials import Credentials
from tests.support.chain import SECRET
from tests.support.docker_engines import Namespace, connect
from tests.support.processes import REPOSITORY, Processes, Program, wait_until

URL = f"https://{SPACE_ADDRESS}"
SPACE_IDLE_S = 60  # a Space's host cuts an idle WebSocket after so long
TUNNEL_IDLE_S = 8  # and this edge sooner
_PAGE, _ROUTER, _HOME = "10.78.0.2", "192.168.77.1", "192.168.77.2"
_START_S, _VISIT_S = 120, 240
_HAPROXY = f"""
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel {TUNNEL_IDLE_S}s
frontend edge
  bind {SPACE_ADDRESS}:443 ssl crt PEM alpn http/1.1
  http-request return status 413 if {{ req.hdr_val(content-length) gt 10485760 }}
  http-request set-header X-Forwarded-Proto https
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  default_backend page
backend page
  option http-server-close
  server page {_PAGE}:7860
"""
_ONLY_THE_PAGES_PORT = """
table inet page { chain input { type filter hook input priority 0; policy drop;
  iif lo accept; ct state established,related accept; tcp dport 7860 accept; icmp type echo-request accept; }; }
"""
_MASQUERADE = """
table ip home { chain out { type nat hook postrouting priority 100; ip saddr 192.168.77.0/24 masquerade; }; }
table inet guard { chain forward { type filter hook forward priority 0; policy drop;
  ip saddr 192.168.77.0/24 accept; ct state established,related accept; }; }
"""


class _Existing(Namespace):
    """A namespace that somebody else has made."""

    def __init__(self, name: str) -> None:
        self.name = name


@dataclass(frozen=True)
class Visitors:
    """Some visitors who ask for a picture each, all at once."""

    program: Program

    def outcomes(self) -> list[dict[str, Any]]:
        """What came of each: `prompt`, `outcome` (`picture` or `sentence`) and its `words`."""
        told = self.program.wait_for_line(r"OUTCOMES (.*)", _VISIT_S)
        return list(json.loads(told[1]))


class HomeNetwork:
    """The networks, and the programs in them. `close` ends all of it."""

    def __init__(self, folder: Path, processes: Processes, quality: Quality) -> None:
        self.folder, self._processes = folder, processes
        label = f"home{os.getpid()}"
        self.line = TwoMachines(label, quality, seed=1)
        self.edge, self.router = _Existing(self.line.space), _Existing(self.line.home)
        self.page_network, self.home = Namespace(f"{label}-page"), Namespace(f"{label}-box")
        self.drawn_file = folder / "drawn"
        self.drawn_file.touch()
        self.certificate, self._key = certify(folder, [SPACE_ADDRESS])

    def start(self) -> None:
        """Lays the cables, starts the edge and the page."""
        self._lay_cables()
        folder = self.folder
        pem = folder / "edge.pem"
        pem.touch(mode=0o600)
        pem.write_text(self.certificate.read_text() + self._key.read_text())
        (folder / "haproxy.cfg").write_text(_HAPROXY.replace("PEM", str(pem)))
        self._processes.start(self.edge.enter("haproxy", "-db", "-f", str(folder / "haproxy.cfg")))
        self.page = self.start_page()

    def _lay_cables(self) -> None:
        connect(self.edge, "10.78.0.1/30", self.page_network, f"{_PAGE}/30")
        connect(self.router, f"{_ROUTER}/24", self.home, f"{_HOME}/24")
        self.home.run("ip", "route", "add", "default", "via", _ROUTER)
        self.router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        self._filter(self.page_network, _ONLY_THE_PAGES_PORT)
        self._filter(self.router, _MASQUERADE)

    def _filter(self, machine: Namespace, rules: str) -> None:
        file = self.folder / "rules.nft"
        file.write_text(rules)
        machine.run("nft", "-f", file)

    def start_page(self) -> Program:
        """The Space's own program, which draws on workers alone; returns once it serves."""
        env = {
            "ENDPOINT_SECRET": SECRET,
            "FALLBACK": "none",
            "GRADIO_SERVER_NAME": "0.0.0.0",
            "GRADIO_SERVER_PORT": "7860",
            "VISITOR_WAITING_MAX": "0",
        }
        program = self._processes.start(self.page_network.enter(sys.executable, "app.py"), env)
        program.wait_for_line("The page is at", _START_S)
        self.page = program
        return program

    def start_worker(self, name: str) -> Program:
        """The worker's own program, with an engine that draws noise; returns once the page has it."""
        config = self.folder / "endpoint.json"
        config.write_text('{"idle_engine_s": 3}')
        env = {
            "WORKER_KEY": Credentials.from_secret(SECRET).worker_key,
            "WORKER_NAME": name,
            "DATA_DIR": str(self.folder / name),
            "INFERENCE_ENGINE": NAME,
            DRAWN_FILE: str(self.drawn_file),
            "SSL_CERT_FILE": str(self.certificate),
        }
        seen = self.times_there(name)
        command = [sys.executable, "-m", "benchmarks._lines_worker", "--config", str(config), "--connect", URL]
        program = self._processes.start(self.home.enter(*command), env)
        wait_until(f"the page to have {name}", lambda: self.times_there(name) > seen, _START_S)
        return program

    def times_there(self, name: str) -> int:
        """How often this page has welcomed a worker of this name."""
        return len(re.findall(f"worker {name} .*is there", self.page.output()))

    def visit(self, prompt: str, *, visitors: int = 1, steps: int = 4) -> Visitors:
        """Visitors come through the edge, from outside; their prompts are `prompt` and a number."""
        command = [sys.executable, "-m", "tests.support.edge_visitors", URL, str(self.certificate), prompt]
        program = self._processes.start(self.edge.enter(*command, str(visitors), str(steps)), cwd=REPOSITORY)
        return Visitors(program)

    def draw_from(self, image: Path, prompt: str) -> tuple[int, int]:
        """A visitor's browser, outside too, uploads the image; returns the picture's width and height in px."""
        command = [sys.executable, "-m", "tests.support.edge_browser", URL, str(image), prompt]
        program = self._processes.start(self.edge.enter(*command), cwd=REPOSITORY)
        told = json.loads(program.wait_for_line(r"PICTURE (.*)", _VISIT_S)[1])
        return told["width"], told["height"]

    def drop(self, port: int) -> None:
        """The router drops the connection from this port of the home's, and tells neither end."""
        self._filter(
            self.router,
            f"table inet half{port} {{ chain forward {{ type filter hook forward priority -10; "
            f"tcp sport {port} drop; tcp dport {port} drop; }}; }}",
        )

    def ports(self) -> list[int]:
        """From which ports the home is connected to the edge now."""
        told = self.home.run("ss", "-tnH", "state", "established", "dst", SPACE_ADDRESS)
        return [int(line.split()[2].rpartition(":")[2]) for line in told.splitlines()]

    def silence_ms(self) -> int:
        """How long the edge has heard nothing of the home on the line that was heard last."""
        told = self.edge.run("ss", "-tniH", "state", "established", "src", f"{SPACE_ADDRESS}:443")
        return min(int(ms) for ms in re.findall(r"lastrcv:(\d+)", told))

    def drawn(self) -> Sequence[str]:
        """The prompt of each picture that a worker has finished."""
        return [line.split(" ", 1)[1] for line in self.drawn_file.read_text().splitlines()]

    def close(self) -> None:
        self._processes.stop_all()
        self.line.close()
        for machine in (self.page_network, self.home):
            machine.remove()


def cannot_be_had() -> str:
    """Why these networks cannot be made here; empty when they can."""
    for program in ("haproxy", "nft", "ss"):
        if shutil.which(program) is None:
            return f"there is no {program} on the PATH: `make test` installs it"
    return missing()


def reaches(machine: Namespace, address: str, port: int) -> bool:
    """Whether a TCP connection from there is accepted within a second."""
    code = f"import socket; socket.create_connection(({address!r}, {port}), 1)"
    done = subprocess.run(machine.enter(sys.executable, "-c", code), capture_output=True, timeout=30, check=False)
    return done.returncode == 0
