"""Three machines in tests (`machine_networks.py`), two of them with Docker engines that form a swarm.

They are set up as docs/swarm.md says: fair_server runs on the VM from its own image.
"""

import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from tests.support.docker_engines import Engine, Namespace, small_disk
from tests.support.machine_networks import REFUSING, SILENT, VM, end_of_cable, lay_cables
from tests.support.machine_space import Space
from tests.support.processes import wait_until
from tests.support.swarm_guide import BOX, SwarmGuide, box_daemon_json

ROLES = ("inference", "tunnel-server", "tunnel-client")
ONE_EACH = dict.fromkeys(ROLES, 1)
_FAIR = "fair"
_READY_S = 60
_BOX_DISK_MB = 1500
_REGISTRY = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}/blobs}}}}
http: {{addr: "{address}"}}
auth: {{htpasswd: {{realm: nobody, path: {folder}/nobody}}}}
"""
_BOX_OPTIONS = ("--insecure-registry", REFUSING, "--insecure-registry", SILENT)


@dataclass
class Machines:
    """The machines, their engines and their fair_server."""

    folder: Path
    internet: Namespace
    space_network: Namespace
    router: Namespace
    vm: Engine
    box: Engine
    guide: SwarmGuide

    def environment(self, **changes: str) -> dict[str, str]:
        """The settings of the Space."""
        return {**self.guide.settings, "DEPLOYMENT": "you/draw", "START_TIMEOUT_S": "300", **changes}

    @contextlib.contextmanager
    def space(self, **changes: str) -> Iterator[Space]:
        """A process of the Space."""
        space = Space(self.space_network, self.environment(**changes))
        try:
            yield space
        finally:
            space.close()

    def start_fair(self, *options: str) -> None:
        """Runs fair_server on the VM, as the guide says, instead of one that runs."""
        self.vm.docker("rm", "--force", _FAIR)
        self.guide.run_fair(*options)
        self.wait_for_fair()

    def wait_for_fair(self) -> None:
        """Returns when fair_server takes logins."""
        wait_until("fair_server to be ready", self._fair_answers, _READY_S)

    def restart_fair(self) -> None:
        """Ends fair_server and starts it again."""
        self.vm.docker("restart", "--time", "5", _FAIR)

    def fair_log(self) -> str:
        """What fair_server has said."""
        return self.vm.docker("logs", _FAIR)

    def containers(self) -> list[dict[str, Any]]:
        """The rows of both nodes, as fair_server tells them."""
        return [
            {"node": node, **row}
            for node in (BOX, "vm")
            for row in self.api("GET", f"/nodes/{node}/containers").json()["containers"]
        ]

    def alive(self) -> dict[str, int]:
        """How many of each role run or start now."""
        return dict(Counter(row["role"] for row in self.containers() if row["status"] in ("starting", "running")))

    def ids(self) -> set[str]:
        """The programs that run."""
        return {row["id"] for row in self.containers() if row["status"] == "running"}

    def node_status(self, name: str) -> str:
        """`ready` or `unreachable`."""
        rows = self.api("GET", "/nodes").json()["nodes"]
        return next(str(row["status"]) for row in rows if row["name"] == name)

    def end_all(self) -> None:
        """Deletes all that runs."""
        for row in self.containers():
            if row["status"] != "ended":
                answer = self.api("DELETE", f"/nodes/{row['node']}/containers/{row['id']}")
                assert answer.ok, answer.text

    @contextlib.contextmanager
    def listener_on_box(self, port: int) -> Iterator[None]:
        """Something on the GPU box beside its engine that listens on this port."""
        listen = (
            f"import socket, time; s = socket.create_server(('', {port})); print('up', flush=True); time.sleep(600)"
        )
        command = self.box.namespace.enter(sys.executable, "-c", listen)
        with subprocess.Popen(command, stdout=subprocess.PIPE) as program:
            assert program.stdout is not None
            try:
                assert program.stdout.readline() == b"up\n"
                yield
            finally:
                program.kill()

    @contextlib.contextmanager
    def refusing_registry(self) -> Iterator[None]:
        """Debian's registry on the internet, which lets nobody in."""
        (self.folder / "nobody").touch()
        config = self.folder / "registry.yml"
        config.write_text(_REGISTRY.format(folder=self.folder, address=REFUSING))
        command = self.internet.enter("docker-registry", "serve", config)
        with (self.folder / "registry.log").open("wb") as log, subprocess.Popen(command, stderr=log) as registry:
            try:
                listening = "import socket; socket.create_connection({!r}, 5)".format(tuple(REFUSING.split(":")))
                probe = self.internet.enter(sys.executable, "-c", listening)
                wait_until("the registry", lambda: not subprocess.run(probe, stderr=log, check=False).returncode, 30)
                yield
            finally:
                registry.kill()

    @contextlib.contextmanager
    def full_disk_on_box(self) -> Iterator[None]:
        """The disk of the GPU box's engine has no room."""
        filler = self.box.folder / "filler"
        try:
            with contextlib.suppress(OSError), filler.open("wb") as file:
                while True:
                    file.write(bytes(2**20))
                    file.flush()
            yield
        finally:
            filler.unlink()

    @contextlib.contextmanager
    def captured(self) -> Iterator[list[Path]]:
        """Takes down all that crosses each machine's network, one file for each; they are whole afterwards."""
        places = (self.space_network, self.internet, self.vm.namespace, self.router, self.box.namespace)
        paths = [self.folder / f"{place.name}.pcap" for place in places]
        with contextlib.ExitStack() as stack:
            for place, path in zip(places, paths, strict=True):
                command = place.enter("tcpdump", "-i", "any", "-U", "-s", "0", "-B", "16384", "-w", path)
                tcpdump = stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE))
                stack.callback(tcpdump.terminate)
                assert tcpdump.stderr is not None
                while b"listening" not in tcpdump.stderr.readline():
                    assert tcpdump.poll() is None, "tcpdump has ended"
            yield paths

    def say_in_plain_text(self, words: bytes) -> None:
        """Sends words from the Space to the tunnel's public port, through which they reach the inference server."""
        send = f"import socket; s = socket.create_connection(({VM!r}, 8080), 10); s.sendall({words!r}); s.recv(1)"
        subprocess.run(self.space_network.enter(sys.executable, "-c", send), check=False, timeout=60)

    def cut_home(self) -> None:
        """Cuts the line between the home and the internet: packets vanish, and neither end is told."""
        for rule in self._rules_of_the_cut():
            self.internet.run("iptables", "-I", *rule)

    def mend_home(self) -> None:
        """Mends it."""
        for rule in self._rules_of_the_cut():
            self.internet.run("iptables", "-D", *rule)

    def _rules_of_the_cut(self) -> list[tuple[str, ...]]:
        cable = end_of_cable(self.internet, self.router)
        return [("FORWARD", way, cable, "-j", "DROP") for way in ("-i", "-o")]

    def api(self, method: str, path: str) -> requests.Response:
        """One request to fair_server, from the VM itself."""
        answer = self._inside.submit(self._ask, method, path).result(90)
        if answer.status_code == 401:  # another run of the server
            self._session.headers.pop("Authorization", None)
            answer = self._inside.submit(self._ask, method, path).result(90)
        return answer

    def _ask(self, method: str, path: str) -> requests.Response:
        """In a thread of the VM's network."""
        api, session = "https://127.0.0.1/api/v0", self._session
        if "Authorization" not in session.headers:
            settings = self.guide.settings
            login = {"email": settings["FAIRCOMPUTE_EMAIL"], "password": settings["FAIRCOMPUTE_PASSWORD"]}
            token = session.post(f"{api}/auth/login", json={**login, "version": "V018"}, timeout=60).json()["token"]
            session.headers["Authorization"] = f"Bearer {token}"
        return session.request(method, f"{api}{path}", timeout=60)

    @cached_property
    def _session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        session.verify = str(self.guide.etc / "tls.crt")
        session.mount("https://", _OfAnyName())
        return session

    @cached_property
    def _inside(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, initializer=self.vm.namespace.move_this_thread)

    def _fair_answers(self) -> bool:
        try:
            return self.api("GET", "/nodes").ok
        except requests.RequestException:
            return False


class _OfAnyName(HTTPAdapter):
    """The certificate names the VM's address, which is not where this asks."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options, assert_hostname=False)


@contextlib.contextmanager
def running_machines(folder: Path, rathole: Path) -> Iterator[Machines]:
    """All of it, set up as docs/swarm.md says and ready to draw; nothing of it is left afterwards."""
    with contextlib.ExitStack() as stack:

        def namespace(name: str) -> Namespace:
            one = Namespace(f"m{os.getpid()}{name}")
            stack.callback(one.remove)
            return one

        internet, space, vm_network, router, home = map(namespace, ("net", "space", "vm", "router", "home"))
        lay_cables(internet, space, vm_network, router, home)
        stack.enter_context(small_disk(folder / "box", _BOX_DISK_MB))
        vm = Engine(folder / "vm", vm_network, "vm")
        box = Engine(folder / "box", home, "gpu-box", _BOX_OPTIONS, daemon_json=box_daemon_json())
        for engine in (vm, box):
            stack.callback(engine.remove)
            engine.start()
        guide = SwarmGuide(folder, vm, box, rathole)
        guide.follow()
        machines = Machines(folder, internet, space, router, vm, box, guide)
        machines.wait_for_fair()
        yield machines
