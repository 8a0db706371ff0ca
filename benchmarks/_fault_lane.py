"""One chain on which faults are tried: a page's service, a Fair server, a box and a tunnel, and what spoils the ways.

The page reaches the tunnel at an address of the loopback network where a toxiproxy listens. The engine draws noise, the
same for the same seed, so that a wrong picture is one that differs in a byte.
"""

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from backends.choose import choose_backend
from benchmarks._boxes import BoxesFair, boxes_fair
from benchmarks._fair_front import FairFront
from benchmarks._flipper import Flipper
from benchmarks._lines_engine import noise
from benchmarks._toxiproxy import Toxiproxy
from drawing.jobs import Job
from endpoint.credentials import Credentials
from errors import JobCancelledError, JobTimeoutError, SpaceError
from settings import Settings
from text_to_image import TextToImage

ROLES = {"inference": "box1", "tunnel-client": "box1", "tunnel-server": "vm"}
_WORDS = {"inference": "benchmarks._lines_worker", "tunnel-client": "--client", "tunnel-server": "--server"}
_NODES = ("box1", "box2", "vm")
HANG_S = 150.0  # whatever takes longer counts as one
_SIDE_PX = (64, 128, 256)
_QUIET_S = 30.0  # until the server must have dropped what nobody waits for
_numbers = itertools.count()


@dataclass(frozen=True)
class Asked:
    """A drawing that was asked for."""

    job: Job
    seed: int
    side_px: int

    def outcome(self, until: float) -> str:
        """What came of it by that moment (monotonic): picture, wrong picture, cancelled, hang, or an error's text."""
        try:
            drawn = self.job.result(max(0.1, until - time.monotonic()))
        except JobTimeoutError:
            return "hang"
        except JobCancelledError:
            return "cancelled"
        except SpaceError as error:
            return f"error: {error}"
        right = drawn.image.tobytes() == noise(self.seed, self.side_px, self.side_px) and drawn.seed == self.seed
        return "picture" if right else "wrong picture"


class Lane:
    """`fair`, `front` before it, `proxy` and `flipper` before the tunnel's ports, `service`: the page's."""

    def __init__(self, fair: BoxesFair, proxy: Toxiproxy, number: int, disk: Path | None, fair_log: Path) -> None:
        self.fair, self.proxy, self.disk, self._fair_log = fair, proxy, disk, fair_log
        self.front = FairFront(fair.url)
        self._number = number
        self._addresses = (f"127.{number + 10}.0.{last}" for last in itertools.cycle(range(2, 250)))
        self.address = next(self._addresses)
        self.front.addresses = {"vm": self.address}
        self._public, self._control = fair.ports[2], fair.ports[4]
        self.flipper = Flipper(self._public)
        self._open("public", self._public, self.flipper.port)
        self._open("control", self._control, self._control)
        self.credentials = Credentials.from_secret(fair.secret)
        self.service = self._new_service()
        self.hits = 0  # what was killed, moved, refused or cut

    @property
    def struck(self) -> int:
        """How often anything has struck so far: a fault that strikes nothing shows nothing."""
        full = self._fair_log.read_text(errors="replace").count("No space left")
        return self.hits + self.front.faults + self.flipper.flipped + full

    @property
    def public(self) -> str:
        """The proxy in front of the tunnel's public port."""
        return f"public-{self._number}"

    @property
    def public_address(self) -> tuple[str, int]:
        return self.address, self._public

    def restart_page(self) -> None:
        """Another process of the Space, as far as Fair and the box can tell: it knows nothing of before."""
        self.hits += 1
        self.service.close()
        self.service = self._new_service()

    def move(self) -> None:
        """The tunnel node gets another address."""
        self.hits += 1
        self.address = next(self._addresses)
        self.front.addresses = {"vm": self.address}
        self.proxy.move(self.public, f"{self.address}:{self._public}")
        self.proxy.move(f"control-{self._number}", f"{self.address}:{self._control}")

    def ask(self, chance: random.Random, steps: int | None = None, prompt: str = "") -> Asked:
        """Asks for one picture, as a visitor of its own."""
        seed, side_px, number = chance.randrange(2**32), chance.choice(_SIDE_PX), next(_numbers)
        job = self.service.submit(
            prompt or f"lane {self._number} picture {number}",
            num_inference_steps=steps or chance.randint(4, 40),
            seed=seed,
            width=side_px,
            height=side_px,
            visitor=f"visitor {number}",
        )
        return Asked(job, seed, side_px)

    def pids(self, role: str) -> list[int]:
        """The processes that Fair runs in that role."""
        return [pid for pid in _children(self.fair.program.pid) if _WORDS[role] in _words(pid)]

    def kill(self, role: str, number: int = signal.SIGKILL) -> None:
        for pid in self.pids(role):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                self.hits += 1

    def kill_engine(self) -> None:
        for server in self.pids("inference"):
            for pid in _children(server):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.hits += 1

    def end_all(self) -> None:
        """Ends the services, as Fair ends them."""
        for role, node in ROLES.items():
            self.fair.end(node, role)

    def rows(self) -> list[dict[str, Any]]:
        """All containers that were ever started, as Fair tells them."""
        headers = {"Authorization": f"Bearer {self.fair.client().token}"}
        rows = []
        for node in _NODES:
            address = f"{self.fair.url}/api/v0/nodes/{node}/containers"
            rows += requests.get(address, headers=headers, timeout=60).json()["containers"]
        return rows

    def double_starts(self, known: Sequence[str]) -> int:
        """How many containers ran beside another one of their role, of those that are not `known` by their ids."""
        rows = [row for row in self.rows() if row["status"] != "starting"]
        return sum(
            row["id"] not in known
            and any(other is not row and other["role"] == row["role"] and overlap(row, other) for other in rows)
            for row in rows
        )

    def left_overs(self) -> list[str]:
        """What should not be there, once it had time to go: drawings that nobody waits for, a second service."""
        deadline = time.monotonic() + _QUIET_S
        while (busy := self._drawings()) and time.monotonic() < deadline:
            time.sleep(0.2)
        left = [f"{busy:g} drawings at the server"] if busy else []
        alive = [str(row["role"]) for row in self.rows() if row["status"] in ("starting", "running")]
        return left + [role for role in set(alive) if alive.count(role) > 1 or role not in ROLES]

    def post(self, body: Any, timeout_s: float = 60.0) -> requests.Response:
        """One post straight to the inference server, with the bearer."""
        session = self._session()
        data = body if isinstance(body, bytes) else json.dumps(body)
        return session.post(self._server_url, data=data, timeout=timeout_s)

    def close(self) -> None:
        self.service.close()
        self.front.close()
        self.flipper.close()

    @property
    def _server_url(self) -> str:
        return f"https://127.0.0.1:{self.fair.ports[0]}/"

    def _drawings(self) -> float:
        """How many drawings the inference server has; 0 where there is none."""
        try:
            text = self._session().get(f"{self._server_url}metrics", timeout=10).text
        except requests.RequestException:
            return 0.0
        rows = [line.split() for line in text.splitlines() if line.startswith(("inference_waiting", "inference_draw"))]
        return sum(float(row[-1]) for row in rows)

    def _session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = session.verify = False
        session.headers["Authorization"] = f"Bearer {self.credentials.bearer}"
        return session

    def _open(self, name: str, port: int, upstream: int) -> None:
        self.proxy.open(f"{name}-{self._number}", f"{self.address}:{port}", f"127.0.0.1:{upstream}")

    def _new_service(self) -> TextToImage:
        values = self.fair.environment("box1", FAIRCOMPUTE_SERVER_ADDRESS=self.front.url)
        values |= {"START_TIMEOUT_S": "120", "DEPLOYMENT": f"lane-{self._number}"}
        settings = Settings.load(_env_file=None, **{name.lower(): value for name, value in values.items()})
        return TextToImage(choose_backend(settings))


@contextlib.contextmanager
def running_lane(folder: Path, tunnel: str, proxy: Toxiproxy, number: int) -> Iterator[Lane]:
    """A lane whose Fair server writes its files on a small disk of its own, where this may be made (as root)."""
    disk = folder / "disk"
    disk.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)]
    has_disk = os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0
    try:
        with boxes_fair(folder, tunnel, disk if has_disk else None) as fair:
            lane = Lane(fair, proxy, number, disk if has_disk else None, folder / "fair.log")
            try:
                yield lane
            finally:
                lane.close()
    finally:
        if has_disk:
            subprocess.run(["umount", str(disk)], check=False, capture_output=True)


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether both ran at the same time; of two, the one that began later counts."""
    later = (one["started_at"] or "", one["id"]) > (other["started_at"] or "", other["id"])
    return later and (other["ended_at"] is None or other["ended_at"] > (one["started_at"] or ""))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def _words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
