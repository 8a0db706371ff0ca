"""The command `docker` for tests, a Docker engine of a test's own, and a registry on loopback."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.processes import free_port, wait_until

REGISTRY_CONFIG = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


class Docker:
    """The command `docker`, which fails the test when it fails. `host`: the engine's socket, None: the usual one."""

    def __init__(self, program: str, host: str | None = None) -> None:
        self.program, self._host = program, host

    def __call__(self, *arguments: str | Path, timeout_s: float = 60) -> str:
        """What it prints, stderr included."""
        ran = subprocess.run(
            [self.program, *arguments],
            env={**os.environ, "DOCKER_BUILDKIT": "1", **({"DOCKER_HOST": self._host} if self._host else {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert ran.returncode == 0, f"docker {' '.join(map(str, arguments))}: {ran.stdout[-3000:]}"
        return ran.stdout.strip()

    def has(self, image: str) -> bool:
        return bool(self("images", "--quiet", image))


def find_docker() -> Docker | str:
    """The command that can build with BuildKit; else why there is none."""
    places = [Path(folder) / "docker" for folder in os.get_exec_path()]
    programs = [str(program) for program in places if os.access(program, os.X_OK)]
    if not programs:
        return "there is no docker on the PATH"
    for program in programs:
        version = subprocess.run(
            [program, "version", "--format", "{{.Client.Version}} {{.Server.Version}}"], capture_output=True, text=True
        )
        if version.returncode:
            return f"no Docker daemon answers: {version.stderr.strip()}"
        # From 23 on BuildKit's client is a program of its own.
        if (
            int(version.stdout.partition(".")[0]) < 23
            or not subprocess.run([program, "buildx", "version"], capture_output=True).returncode
        ):
            return Docker(program)
    return f"{', '.join(programs)} cannot build with BuildKit: docker buildx is not installed"


@contextlib.contextmanager
def own_engine(program: str) -> Iterator[Docker]:
    """A Docker engine without images and networks, which is gone afterwards. It takes root and `dockerd`."""
    folder = Path(tempfile.mkdtemp(prefix="docker-", dir="/tmp"))  # a socket's path may not be long
    paths = {"--data-root": "data", "--exec-root": "exec", "--pidfile": "pid"}
    options = [word for option, name in paths.items() for word in (option, str(folder / name))]
    host = f"unix://{folder / 'sock'}"
    with (folder / "log").open("wb") as log:
        command = ["dockerd", *options, "-H", host, "--bridge", "none", "--iptables=false"]
        engine = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until("the engine", lambda: "API listen on" in (folder / "log").read_text(), 60)
        yield Docker(program, host)
    finally:
        engine.terminate()
        engine.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def registry(folder: Path) -> Iterator[str]:
    """Debian's docker-registry on loopback with its blobs in `folder`; yields its address, host and port."""
    port = free_port()
    (folder / "config.yml").write_text(REGISTRY_CONFIG.format(folder=folder / "blobs", port=port))
    with (folder / "log").open("wb") as log:
        serving = subprocess.Popen(["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log)
    try:
        wait_until("the registry", lambda: "listening on" in (folder / "log").read_text(), 30)
        yield f"127.0.0.1:{port}"
    finally:
        serving.terminate()
        serving.wait(30)


def missing(programs: Sequence[str]) -> list[str]:
    """Those that are not installed."""
    return [program for program in programs if shutil.which(program) is None]


def timed(docker: Docker, *arguments: str | Path) -> float:
    """Runs it; returns the seconds that it took."""
    begun_s = time.monotonic()
    docker(*arguments, timeout_s=600)
    return time.monotonic() - begun_s
