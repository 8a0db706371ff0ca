"""Where the Fair server of a test runs its programs: as processes of this machine, or on a swarm of one engine.

`FAIR_EXECUTOR=swarm` in the environment makes every test of the Fair server one of the swarm executor
(`make test-machines` does so).
"""

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.docker_engines import PYTHON_IMAGE, Engine, Namespace, import_python, init_swarm, run

EXECUTOR = os.environ.get("FAIR_EXECUTOR", "process")
_NUMBERS = itertools.count(1)
_LISTEN = (
    "import socket, sys, time; s = socket.create_server(('', int(sys.argv[1]))); "
    "print('up', flush=True); time.sleep(600)"
)


@dataclass(frozen=True)
class Place:
    """A place for programs. `address`: where their ports are reached; `options`: the server's."""

    address: str
    options: tuple[str | Path, ...]
    engine: Engine | None = None

    @property
    def is_swarm(self) -> bool:
        """Whether programs are containers."""
        return self.engine is not None

    def nodes(self, images: Mapping[str, Sequence[str]]) -> str:
        """The nodes file: `gpu` (id node-1) with all images, and `tunnel` with `sleep` alone."""
        rows = {name: self._image(prefix) for name, prefix in images.items()}
        lines = ["[[node]]", 'name = "gpu"', 'id = "node-1"', "gpus = 1", *self._node(), "[node.images]"]
        lines += [f"{json.dumps(name)} = {row}" for name, row in rows.items()]
        lines += ["[[node]]", 'name = "tunnel"', *self._node(), "[node.images]", f"sleep = {rows['sleep']}"]
        return "\n".join(lines)

    @contextlib.contextmanager
    def taken_port(self) -> Iterator[int]:
        """A port of the node on which something else listens."""
        if self.engine is None:
            with socket.create_server(("127.0.0.1", 0)) as taken:
                yield taken.getsockname()[1]
            return
        port = 20_000 + next(_NUMBERS)
        command = self.engine.namespace.enter(sys.executable, "-c", _LISTEN, str(port))
        with subprocess.Popen(command, stdout=subprocess.PIPE) as listener:
            assert listener.stdout is not None
            listener.stdout.readline()
            yield port
            listener.kill()

    def _node(self) -> list[str]:
        address = f'host_address = "{self.address}"'
        return [address] if self.engine is None else [address, f'swarm_node = "{self.engine.hostname}"']

    def _image(self, prefix: Sequence[str]) -> str:
        if self.engine is None:
            return json.dumps(list(prefix))
        inside = ["python3" if part == sys.executable else part for part in prefix]
        return f"{{reference = {json.dumps(PYTHON_IMAGE)}, command = {json.dumps(inside)}}}"


PROCESSES = Place("127.0.0.1", ())
_current = [PROCESSES]


def place() -> Place:
    """The place of this test run."""
    return _current[-1]


@contextlib.contextmanager
def running_place(folder: Path) -> Iterator[Place]:
    """Makes the place that the environment asks for."""
    if EXECUTOR == "process":
        yield PROCESSES
        return
    with swarm_of_one(folder) as swarm:
        _current.append(swarm)
        yield swarm
        _current.pop()


@contextlib.contextmanager
def swarm_of_one(folder: Path) -> Iterator[Place]:
    """A swarm of one engine, in a network of its own that this machine reaches."""
    number = next(_NUMBERS) + os.getpid() % 1000
    subnet = f"10.{200 + number % 50}.{os.getpid() % 250}"
    namespace = Namespace(f"fair{os.getpid()}n{number}")
    outside = f"f{os.getpid()}n{number}"[:15]
    try:
        run("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", namespace.name)
        run("ip", "address", "add", f"{subnet}.1/24", "dev", outside)
        run("ip", "link", "set", outside, "up")
        run("ip", "-n", namespace.name, "address", "add", f"{subnet}.2/24", "dev", "eth0")
        run("ip", "-n", namespace.name, "link", "set", "eth0", "up")
        gpus = ("--node-generic-resource", "NVIDIA-GPU=GPU-0", "--node-generic-resource", "NVIDIA-GPU=GPU-1")
        engine = Engine(folder / "engine", namespace, "box", gpus)
        try:
            engine.start()
            init_swarm(engine, f"{subnet}.2")
            import_python(engine)
            yield Place(f"{subnet}.2", ("--executor", "swarm", "--docker-socket", engine.socket), engine)
        finally:
            engine.remove()
    finally:
        namespace.remove()
