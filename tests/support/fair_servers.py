"""Fair servers in tests: started as users start them, driven over HTTP."""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import requests

from tests.support.fair_places import place
from tests.support.processes import Processes, Program, wait_until

EMAIL, PASSWORD = "owner@example.com", "a password of tests"
SERVER = [sys.executable, "-m", "fair_server", "--port", "0"]
ACCOUNT = {"FAIRCOMPUTE_EMAIL": EMAIL, "FAIRCOMPUTE_PASSWORD": PASSWORD}
DEADLINE_S = 60  # for one answer, on a machine that is busy with other tests

ECHO = "import sys; print('out', *sys.argv[1:]); print('err', file=sys.stderr); sys.exit(3)"
CAT = "import sys; sys.stdout.write(sys.stdin.read())"
# In a container it is the first process, to which a signal that it does not handle does nothing.
SLEEP = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); "
    "print('up', flush=True); time.sleep(600)"
)
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
# Listens on the port given and answers each connection with the port's number and what it was sent.
ANSWER = """
import socket, sys
with socket.create_server(("", int(sys.argv[1]))) as server:
    print("up", flush=True)
    while True:
        connection, _ = server.accept()
        with connection:
            said = b""
            while piece := connection.recv(4096):
                said += piece
            connection.sendall(sys.argv[1].encode() + b" " + said)
"""
# Prints where the files given as arguments lie, their modes and contents.
SHOW = """
import os, stat, sys
for path in sys.argv[1:]:
    with open(path) as file:
        print(path, oct(stat.S_IMODE(os.stat(path).st_mode)), file.read())
print(os.getcwd(), oct(stat.S_IMODE(os.stat(".").st_mode)))
"""
# Starts a child that ignores TERM, says both process ids, and goes on.
PARENT = """
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"],
    stdout=subprocess.PIPE)
child.stdout.readline()
print(os.getpid(), child.pid, flush=True)
if sys.argv[1:] == ["--end"]:
    sys.exit(7)
time.sleep(600)
"""
IMAGES = {
    "echo": ECHO,
    "cat": CAT,
    "sleep": SLEEP,
    "stubborn": STUBBORN,
    "show": SHOW,
    "parent": PARENT,
    "answer": ANSWER,
    "environment": "import json, os; print(json.dumps(dict(os.environ)))",
}


def python_image(code: str, *arguments: str) -> list[str]:
    """Returns the argv prefix of an image that is a small Python program."""
    return [sys.executable, "-c", code, *arguments]


def write_nodes(folder: Path, more_images: Mapping[str, Sequence[str]] | None = None) -> Path:
    """Writes a nodes file: `gpu` (id node-1) with all images, and `tunnel` with `sleep` alone."""
    images: dict[str, Sequence[str]] = {name: python_image(code) for name, code in IMAGES.items()}
    images["answer-placed"] = python_image(ANSWER, "{port:8000}")
    images["any"] = []
    images["not-installed"] = ["no-such-executable-anywhere"]
    images.update(more_images or {})
    path = folder / "nodes.toml"
    path.write_text(place().nodes(images))
    return path


def start_server(processes: Processes, folder: Path, *options: str | Path) -> "RunningServer":
    """Starts a server with the nodes of `write_nodes` and waits until it is ready."""
    program = processes.start([*SERVER, *place().options, "--nodes", write_nodes(folder), *options], env=ACCOUNT)
    return RunningServer(program.wait_for_line(r"Fair server ready on (\S+)")[1], program)


@contextlib.contextmanager
def running_server(folder: Path) -> Iterator["RunningServer"]:
    """A server for several tests; ends it and all that it runs."""
    processes = Processes(folder)
    try:
        yield start_server(processes, folder)
    finally:
        processes.stop_all()


@dataclass(frozen=True)
class RunningServer:
    """A server that is ready."""

    url: str
    program: Program

    def log_in(self, email: str = EMAIL, password: str = PASSWORD) -> "Account":
        """Returns an account's view of the server."""
        answer = requests.post(
            f"{self.url}/api/v0/auth/login",
            json={"email": email, "password": password, "version": "V018"},
            timeout=DEADLINE_S,
        )
        answer.raise_for_status()
        return Account(f"{self.url}/api/v0", answer.json()["token"])


@dataclass(frozen=True)
class Launched:
    """A program that a test has put."""

    program_id: int
    bucket_id: int


class Account:
    """The API with a token, as a thin client: what it answers is for the tests to judge."""

    def __init__(self, api: str, token: str) -> None:
        self.api = api
        self.token = token

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Sends one request, with a deadline."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return requests.request(method, f"{self.api}{path}", headers=headers, timeout=DEADLINE_S, **options)

    def put_file(self, bucket_id: int, key: str, content: bytes) -> None:
        """Puts a whole file."""
        address = f"/buckets/{bucket_id}/{quote_plus(key)}"
        assert self.request("PUT", address, data=content).ok
        assert self.request("PUT", f"{address}/eof").ok

    def put_program(self, commands: list[dict[str, Any]], node: str = "gpu") -> requests.Response:
        """Puts commands as they are."""
        return self.request("PUT", f"/nodes/{node}/programs", json={"version": "V018", "commands": commands})

    def launch(
        self,
        image: str,
        command: Sequence[str] = (),
        *,
        ports: Sequence[tuple[int, int]] = (),
        files: Mapping[str, bytes] | None = None,
        stdin: bytes = b"",
        wait: bool = True,
        node: str = "gpu",
        labels: Mapping[str, str] | None = None,
    ) -> Launched:
        """Puts a program and its files, and returns without waiting for anything."""
        answer = self.put_program(commands(image, command, ports, list(files or {}), wait, labels), node)
        assert answer.ok, answer.text
        launched = Launched(**answer.json())
        for key, content in (files or {}).items():
            self.put_file(launched.bucket_id, key, content)
        self.put_file(launched.bucket_id, "#stdin", stdin)
        return launched

    def status(self, launched: Launched, node: str = "gpu") -> str:
        """Returns the program's status."""
        return str(self.request("GET", f"/nodes/{node}/programs/{launched.program_id}/info").json()["status"])

    def exit_code(self, launched: Launched, node: str = "gpu") -> int:
        """Returns the exit code, when the program has completed."""
        wait_until("the program to complete", lambda: self.status(launched, node) == "Completed", DEADLINE_S)
        answer = self.request("GET", f"/nodes/{node}/programs/{launched.program_id}/result")
        return int(answer.json()["result"][-1]["Ok"]["exit_code"])

    def output(self, launched: Launched, key: str = "#stdout") -> bytes:
        """Returns all of an output, which is whole when the program has ended."""
        return self.request("GET", f"/buckets/{launched.bucket_id}/{quote_plus(key)}").content

    def first_line(self, launched: Launched, key: str = "#stdout") -> str:
        """Returns the first line of an output as soon as it is there; the program may go on."""
        with self.request("GET", f"/buckets/{launched.bucket_id}/{quote_plus(key)}", stream=True) as answer:
            line: bytes = next(answer.iter_lines(chunk_size=1))
            return line.decode()

    def container(self, launched: Launched, node: str = "gpu") -> dict[str, Any]:
        """Returns the program's row in the list of containers."""
        rows = self.request("GET", f"/nodes/{node}/containers").json()["containers"]
        return next(row for row in rows if row["id"] == str(launched.program_id))

    def delete(self, launched: Launched, node: str = "gpu") -> requests.Response:
        """Deletes the program's container."""
        return self.request("DELETE", f"/nodes/{node}/containers/{launched.program_id}")


def commands(
    image: str,
    command: Sequence[str] = (),
    ports: Sequence[tuple[int, int]] = (),
    keys: Sequence[str] = (),
    wait: bool = True,
    labels: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Returns the commands that the clients send for one program."""
    container: dict[str, Any] = {
        "image": image,
        "runtime": "docker",
        "ports": [[{"port": host, "ip": "null"}, {"port": inside, "protocol": "Tcp"}] for host, inside in ports],
        "command": list(command),
        "host_config": {"network_mode": "bridge"},
    }
    if labels is not None:
        container["labels"] = dict(labels)
    copies = [
        {
            "type": "CopyInto",
            "container_id": "$0",
            "bucket_id": 2**64 - 1,
            "remote_key": key,
            "local_path": key,
        }
        for key in keys
    ]
    last = [{"type": "Wait", "container_id": "$0"}] if wait else []
    return [
        {"type": "Create", "container_desc": container},
        *copies,
        {"type": "Start", "container_id": "$0"},
        *last,
    ]
