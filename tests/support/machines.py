"""Three machines in tests: a Space that reaches ports 80, 443 and 8080 alone, a public VM, a GPU box behind NAT.

Each is a network namespace; a fourth one stands for the internet, a fifth for the router at home, which lets nothing
in. VM and GPU box have Docker engines that form a swarm; fair_server runs on the VM from its own image.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import requests

from fair_server.authentication import hash_line
from tests.support.certificates import CertificateFiles, write_certificate
from tests.support.docker_engines import Engine, Namespace, connect, forget_name_servers, init_swarm, small_disk
from tests.support.machine_images import (
    FAIR_IMAGE,
    INFERENCE_IMAGE,
    TUNNEL_IMAGE,
    import_fair_image,
    import_inference_image,
    import_tunnel_image,
    make_image_without_its_user,
)
from tests.support.processes import REPOSITORY, wait_until

EMAIL, PASSWORD = "owner@example.com", "a password that only tests know"
SECRET = "a secret of tests, long enough: 0123456789 abcdefghij"
VM, HOME = "203.0.113.7", "198.51.100.2"  # the first is that of docs/swarm.md
PORTS_OF_A_SPACE = "80,443,8080"
ROLES = ("inference", "tunnel-server", "tunnel-client")
ONE_EACH = dict.fromkeys(ROLES, 1)
_FAIR = "fair"
_READY_S = 60
_BOX_DISK_MB = 3000
# Registries on the internet: one that refuses, and one that lets nobody in and does not say so.
REFUSING, SILENT = "198.51.100.1:5000", "198.51.100.1:5001"
_REGISTRY = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}/blobs}}}}
http: {{addr: "{address}"}}
auth: {{htpasswd: {{realm: nobody, path: {folder}/nobody}}}}
"""
_BOX_OPTIONS = (
    *("--node-generic-resource", "NVIDIA-GPU=GPU-0"),
    *("--insecure-registry", REFUSING, "--insecure-registry", SILENT),
)


class Space:
    """A Space's process that draws, in the Space's network; it tells of each drawing in a line of JSON."""

    def __init__(self, network: Namespace, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            network.enter(sys.executable, "-m", "tests.support.space_that_draws"),
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, prompt: str = "a red apple") -> None:
        """Begins a drawing."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{prompt}\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """What came of it: `size` and `seconds`, or `error`."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the Space's process has ended"
        return dict(json.loads(line))

    def draw(self, prompt: str = "a red apple") -> dict[str, Any]:
        """One drawing from beginning to end."""
        self.ask(prompt)
        return self.answer()

    def close(self) -> None:
        """Ends it; what it has started runs on."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(30)


@dataclass
class Machines:
    """The machines, their engines and their fair_server."""

    folder: Path
    internet: Namespace
    space_network: Namespace
    router: Namespace
    vm: Engine
    box: Engine
    certificate: CertificateFiles

    def environment(self, **changes: str) -> dict[str, str]:
        """The settings of the Space."""
        return {
            "FAIRCOMPUTE_EMAIL": EMAIL,
            "FAIRCOMPUTE_PASSWORD": PASSWORD,
            "FAIRCOMPUTE_SERVER_ADDRESS": f"https://{VM}",
            "FAIRCOMPUTE_CERT_SHA256": self.certificate.sha256,
            "INFERENCE_NODE": "box",
            "TUNNEL_NODE": "vm",
            "INFERENCE_IMAGE": INFERENCE_IMAGE,
            "ENDPOINT_SECRET": SECRET,
            "DEPLOYMENT": "you/draw",
            "START_TIMEOUT_S": "300",
            **changes,
        }

    @contextlib.contextmanager
    def space(self, **changes: str) -> Iterator[Space]:
        """A process of the Space."""
        space = Space(self.space_network, self.environment(**changes))
        try:
            yield space
        finally:
            space.close()

    def start_fair(self, *options: str) -> None:
        """Runs fair_server on the VM, as the guide says but for the socket's place; instead of one that runs."""
        self.vm.docker("rm", "--force", _FAIR)
        mounts = ["-v", f"{self.vm.socket}:/var/run/docker.sock", "-v", f"{self.folder}/etc:/etc/fair:ro"]
        self.vm.docker(
            *("run", "-d", "--name", _FAIR, "--restart", "unless-stopped", "--network", "host"),
            *(*mounts, FAIR_IMAGE, *options),
        )
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
            for node in ("box", "vm")
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
        line = _line(self.internet, self.router)
        return [("FORWARD", way, line, "-j", "DROP") for way in ("-i", "-o")]

    @cached_property
    def _session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env, session.verify = False, str(self.certificate.certificate)
        return session

    def api(self, method: str, path: str) -> requests.Response:
        """One request to fair_server, from the VM itself."""
        script = _ONE_REQUEST.format(method=method, path=path)
        text = self.vm.namespace.run(sys.executable, "-c", script, timeout_s=90)
        status, _, body = text.partition("\n")
        answer = requests.Response()
        answer.status_code, answer._content = int(status), body.encode()
        return answer

    def _fair_answers(self) -> bool:
        try:
            return self.api("GET", "/nodes").ok
        except AssertionError:
            return False


# The namespace's own process: this one is in another network.
_ONE_REQUEST = f"""
import json, ssl, urllib.request, urllib.error
context = ssl._create_unverified_context()
def ask(method, path, token=None, body=None):
    headers = {{{{"Content-Type": "application/json"}}}}
    if token:
        headers["Authorization"] = "Bearer " + token
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request("https://127.0.0.1/api/v0" + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, context=context, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
login = {{{{"email": {EMAIL!r}, "password": {PASSWORD!r}, "version": "V018"}}}}
token = json.loads(ask("POST", "/auth/login", None, login)[1])["token"]
status, body = ask("{{method}}", "{{path}}", token)
print(status)
print(body)
"""


@contextlib.contextmanager
def running_machines(folder: Path, rathole: Path) -> Iterator[Machines]:
    """All of it, ready to draw; nothing of it is left afterwards."""
    with contextlib.ExitStack() as stack:

        def namespace(name: str) -> Namespace:
            one = Namespace(f"m{os.getpid()}{name}")
            stack.callback(one.remove)
            return one

        internet, space, vm_network, router, home = map(namespace, ("net", "space", "vm", "router", "home"))
        _lay_cables(internet, space, vm_network, router, home)
        vm = Engine(folder / "vm", vm_network, "vm")
        stack.enter_context(small_disk(folder / "box", _BOX_DISK_MB))
        box = Engine(folder / "box", home, "gpu-box", _BOX_OPTIONS)
        for engine in (vm, box):
            stack.callback(engine.remove)
            engine.start()
        token = init_swarm(vm, VM)
        box.docker("swarm", "join", "--token", token, f"{VM}:2377")
        import_fair_image(vm)
        import_inference_image(box)
        box.docker("tag", INFERENCE_IMAGE, f"{SILENT}/{INFERENCE_IMAGE}")
        for engine in (vm, box):
            import_tunnel_image(engine, rathole)
        make_image_without_its_user(box)
        machines = Machines(folder, internet, space, router, vm, box, _write_etc(folder))
        machines.start_fair()
        yield machines


def _lay_cables(internet: Namespace, space: Namespace, vm: Namespace, router: Namespace, home: Namespace) -> None:
    connect(internet, "192.0.2.1/24", space, "192.0.2.2/24")
    connect(internet, "203.0.113.1/24", vm, f"{VM}/24")
    connect(internet, "198.51.100.1/24", router, f"{HOME}/24")
    connect(router, "192.168.77.1/24", home, "192.168.77.2/24")
    for machine, gateway in (
        (space, "192.0.2.1"),
        (vm, "203.0.113.1"),
        (router, "198.51.100.1"),
        (home, "192.168.77.1"),
    ):
        machine.run("ip", "route", "add", "default", "via", gateway)
    forget_name_servers(vm, home)
    for machine in (internet, router):
        machine.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    _allow_outwards_only(router, _line(router, internet))
    internet.run("iptables", "-A", "INPUT", "-p", "tcp", "--dport", SILENT.partition(":")[2], "-j", "DROP")
    for rule in (
        "-A OUTPUT -o lo -j ACCEPT",
        f"-A OUTPUT -p tcp -m multiport --dports {PORTS_OF_A_SPACE} -j ACCEPT",
        "-P OUTPUT DROP",
    ):
        space.run("iptables", *rule.split())


def _allow_outwards_only(router: Namespace, outside: str) -> None:
    """NAT: what is inside may call out; nothing that comes from outside unasked gets in, or an answer."""
    for rule in (
        f"-t nat -A POSTROUTING -o {outside} -j MASQUERADE",
        f"-A FORWARD -i {outside} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        f"-A FORWARD -i {outside} -j DROP",
        f"-A INPUT -i {outside} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        f"-A INPUT -i {outside} -j DROP",
    ):
        router.run("iptables", *rule.split())


def _line(machine: Namespace, other: Namespace) -> str:
    """The name of the machine's end of the cable to the other."""
    return f"{machine.name[-6:]}-{other.name[-6:]}"[:15]


def _write_etc(folder: Path) -> CertificateFiles:
    """What `/etc/fair` of the VM holds."""
    etc = folder / "etc"
    etc.mkdir()
    (etc / "accounts").write_text(hash_line(EMAIL, PASSWORD) + "\n")
    (etc / "nodes.toml").write_text(
        f"""
[[node]]
name = "vm"
host_address = "{VM}"
images = {{ "{TUNNEL_IMAGE}" = [], "{INFERENCE_IMAGE}" = [] }}

[[node]]
name = "box"
swarm_node = "gpu-box"
gpus = 1

[node.images]
"{TUNNEL_IMAGE}" = []
"{INFERENCE_IMAGE}" = {{ volumes = ["/data"] }}
"not/there:1" = []
"{REFUSING}/{INFERENCE_IMAGE}" = []
"{SILENT}/{INFERENCE_IMAGE}" = {{ volumes = ["/data"] }}
"without/its-user:1" = []
"""
    )
    return write_certificate(etc)
