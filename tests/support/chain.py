"""A whole chain in tests: a real Fair server with two nodes, what runs on it as its API tells, and who draws on it.

The processes of services are found below the Fair server in /proc: nothing of the product is asked for them.
"""

import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
import requests

from backends.choose import choose_backend
from backends.start import Timing
from drawing.models import GeneratedImage
from settings import Settings
from tests.support import process_tree
from tests.support.processes import Processes, Program, free_port, is_running, wait_until
from text_to_image import TextToImage

EMAIL, PASSWORD = "owner@example.com", "a password that only tests know"
SECRET = "a secret of tests, long enough: 0123456789 abcdefghij"
DEPLOYMENT = "tests"
GPU_NODE, TUNNEL_NODE = "gpu", "tunnel"
INFERENCE_IMAGE, TUNNEL_IMAGE = "inference-server", "rapiz1/rathole:v0.5.0"
ROLES = ("inference", "tunnel-server", "tunnel-client")
ONE_EACH = dict.fromkeys(ROLES, 1)
INFERENCE_ARGV = [sys.executable, "-m", "inference_server", "--host", "127.0.0.1", "--port", "{port:8000}"]
START_S = 150  # for all services, on a machine that is busy with other tests
DRAW_S = 200  # for one prompt, a start included
_API_S = 60
_WORDS_OF = {"inference": "inference_server", "tunnel-server": "--server", "tunnel-client": "--client"}


@dataclass(frozen=True)
class Container:
    """A row of the list of containers."""

    id: str
    node: str
    image: str
    role: str | None
    deployment: str | None
    fingerprint: str | None
    status: str
    exit_code: int | None


@dataclass(frozen=True)
class Chain:
    """A Fair server, None before it is started, and ports for the services that it will run."""

    fair: Program | None
    url: str
    inference_port: int = field(default_factory=free_port)
    control_port: int = field(default_factory=free_port)
    public_port: int = field(default_factory=free_port)

    def environment(self, **changes: str | None) -> dict[str, str]:
        """The settings of a Space that draws through this chain; a change to None leaves one out."""
        settings: dict[str, str | None] = {
            "FAIRCOMPUTE_EMAIL": EMAIL,
            "FAIRCOMPUTE_PASSWORD": PASSWORD,
            "FAIRCOMPUTE_SERVER_ADDRESS": self.url,
            "INFERENCE_NODE": GPU_NODE,
            "TUNNEL_NODE": TUNNEL_NODE,
            "INFERENCE_IMAGE": INFERENCE_IMAGE,
            "INFERENCE_HOST_PORT": str(self.inference_port),
            "TUNNEL_CONTROL_PORT": str(self.control_port),
            "TUNNEL_PUBLIC_PORT": str(self.public_port),
            "ENDPOINT_SECRET": SECRET,
            "DEPLOYMENT": DEPLOYMENT,
            "START_TIMEOUT_S": str(START_S),
            **changes,
        }
        return {name: value for name, value in settings.items() if value is not None}

    @contextlib.contextmanager
    def service(self, timing: Timing | None = None, /, **changes: str | None) -> Iterator[TextToImage]:
        """A Space's `TextToImage` on this chain, closed afterwards; what it has started runs on."""
        with service_of(self.environment(**changes), timing) as service:
            yield service

    @cached_property
    def _token(self) -> str:
        login = {"email": EMAIL, "password": PASSWORD, "version": "V018"}
        return str(requests.post(f"{self.url}/api/v0/auth/login", json=login, timeout=_API_S).json()["token"])

    def api(self, method: str, path: str) -> requests.Response:
        """One request to the Fair server, logged in."""
        headers = {"Authorization": f"Bearer {self._token}"}
        return requests.request(method, f"{self.url}/api/v0{path}", headers=headers, timeout=_API_S)

    def containers(self) -> list[Container]:
        """All that were ever started, oldest first on each node."""
        rows: list[Container] = []
        for node in (GPU_NODE, TUNNEL_NODE):
            for row in self.api("GET", f"/nodes/{node}/containers").json()["containers"]:
                rows.append(Container(node=node, **{name: row[name] for name in row if name in _COLUMNS}))
        return rows

    def starts(self) -> dict[str, int]:
        """How often each role was ever started."""
        return dict(Counter(str(row.role) for row in self.containers()))

    def running(self) -> dict[str, int]:
        """How many containers of each role run now."""
        return dict(Counter(str(row.role) for row in self.containers() if row.status == "running"))

    def started_since(self, before: Mapping[str, int]) -> dict[str, int]:
        """How often each role was started since `starts()` gave `before`; without those that were not."""
        return dict(Counter(self.starts()) - Counter(before))

    def pid(self, role: str) -> int:
        """The one process that the Fair server runs for this role."""
        assert self.fair is not None
        pids = [pid for pid in process_tree.children(self.fair.pid) if _WORDS_OF[role] in process_tree.argv(pid)]
        assert len(pids) == 1, f"{len(pids)} processes of {role}"
        return pids[0]

    def engine_pid(self) -> int:
        """The engine process, child of the inference server."""
        server = self.pid("inference")
        pids = [
            pid
            for pid in process_tree.children(server)
            if "inference_server.engine_process" in process_tree.argv(pid) and is_running(pid)
        ]
        assert len(pids) == 1, f"{len(pids)} engine processes"
        return pids[0]

    def kill(self, role: str) -> None:
        """Kills a service, and returns when the Fair server knows that it is gone."""
        pid = self.pid(role)
        os.kill(pid, signal.SIGKILL)
        wait_until(f"{role} to be gone", lambda: self.running().get(role, 0) == 0)

    def outputs(self) -> str:
        """What all containers have printed; those that still run are ended first."""
        texts = []
        for row in self.containers():
            if row.status != "ended":
                assert self.api("DELETE", f"/nodes/{row.node}/containers/{row.id}").ok
            texts += [self.api("GET", f"/buckets/{row.id}/{quote_plus(key)}").text for key in ("#stdout", "#stderr")]
        return "\n".join(texts)


_COLUMNS = frozenset(Container.__dataclass_fields__) - {"node"}


def start_chain(
    processes: Processes,
    folder: Path,
    rathole: Path,
    *,
    inference_argv: Sequence[str] = INFERENCE_ARGV,
    env: Mapping[str, str | None] | None = None,
    port: int = 0,
) -> Chain:
    """Starts `python -m fair_server` with the nodes `gpu` and `tunnel`; nothing runs on it yet."""
    nodes = folder / "nodes.toml"
    images = {INFERENCE_IMAGE: list(inference_argv), TUNNEL_IMAGE: [str(rathole)]}
    nodes.write_text(
        f"[[node]]\nname = '{GPU_NODE}'\ngpus = 1\nimages = {_toml(images)}\n"
        f"[[node]]\nname = '{TUNNEL_NODE}'\nimages = {_toml({TUNNEL_IMAGE: [str(rathole)]})}\n"
    )
    account = {"FAIRCOMPUTE_EMAIL": EMAIL, "FAIRCOMPUTE_PASSWORD": PASSWORD}
    fair = processes.start(
        [sys.executable, "-m", "fair_server", "--port", str(port), "--nodes", nodes], {**account, **(env or {})}
    )
    return Chain(fair, fair.wait_for_line(r"Fair server ready on (http://\S+)")[1])


@contextlib.contextmanager
def running_chain(folder: Path, rathole: Path, **options: Any) -> Iterator[Chain]:
    """A chain for several tests; `options` as for `start_chain`."""
    processes = Processes(folder)
    try:
        yield start_chain(processes, folder, rathole, **options)
    finally:
        processes.stop_all()


@contextlib.contextmanager
def service_of(environment: Mapping[str, str], timing: Timing | None = None) -> Iterator[TextToImage]:
    """The `TextToImage` of a Space with exactly these settings, whatever the developer has set.

    `timing`: waits other than those of a Space.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in {name.upper() for name in Settings.model_fields} | {"SPACE_ID"}:
            patch.delenv(name, raising=False)
            patch.delenv(name.replace("FAIRCOMPUTE_", "FAIRCOMPUTE_USER_"), raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        service = TextToImage(choose_backend(Settings.load(_env_file=None), timing))
    try:
        yield service
    finally:
        service.close()


def draw(
    service: TextToImage, prompt: str = "a red apple", *, timeout_s: float = DRAW_S, **parameters: Any
) -> GeneratedImage:
    """The drawing, in few steps, or the error that it ended in."""
    drawing = service.submit(prompt, **{"num_inference_steps": 4, **parameters}).result(timeout_s)
    assert drawing.image.size == (256, 256)
    return drawing


def _toml(images: Mapping[str, Sequence[str]]) -> str:
    rows = ", ".join(f"{_quoted(name)} = [{', '.join(map(_quoted, argv))}]" for name, argv in images.items())
    return f"{{ {rows} }}"


def _quoted(text: str) -> str:
    return "'''" + text + "'''" if "'" in text else f"'{text}'"
