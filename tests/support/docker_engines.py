"""Docker engines in tests: each a `dockerd` of its own in a network namespace, with folders that go with it.

Several of them make a swarm, as several machines would. It takes root, Docker's engine and `ip`.
"""

import contextlib
import ctypes
import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.support.processes import wait_until

PYTHON_IMAGE = "fair-tests-python:1"
_CLONE_NEWNET = 0x40000000
_READY_S = 60
_STOP_S = 30
_LEFT_OUT = ("test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages", "__pycache__")
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nplain:x:1000:1000:plain:/tmp:/bin/sh\n"


def missing() -> str | None:
    """What is not there for these tests; None if all is."""
    if os.geteuid() != 0:
        return "root is needed, for network namespaces and Docker's engine"
    tools = [name for name in ("dockerd", "docker", "ip", "nsenter", "iptables") if shutil.which(name) is None]
    return f"not on the PATH: {', '.join(tools)}" if tools else None


def run(*command: str | Path, timeout_s: float = 120, stdin: bytes | None = None) -> str:
    """Runs a command; returns what it printed. Fails with that if the command does."""
    done = subprocess.run(
        [str(part) for part in command],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout_s,
        check=False,
    )
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {output[-2000:]}"
    return output


class Namespace:
    """A network namespace: a machine's network of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "lo", "up")

    def enter(self, *command: str | Path) -> list[str]:
        """The command as it runs in there; the cgroups stay visible, which `ip netns exec` hides."""
        return ["nsenter", f"--net=/run/netns/{self.name}", *map(str, command)]

    def run(self, *command: str | Path, timeout_s: float = 120) -> str:
        """Runs a command in there."""
        return run(*self.enter(*command), timeout_s=timeout_s)

    def move_this_thread(self) -> None:
        """From now on the calling thread's new sockets are in there."""
        with open(f"/run/netns/{self.name}", "rb") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns to {self.name}")

    def remove(self) -> None:
        """Removes it."""
        subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True)


def forget_name_servers(*machines: Namespace) -> None:
    """Lets a look-up fail at once: an engine asks a registry for each image before it takes its own, for some 20 s."""
    text = Path("/etc/resolv.conf").read_text()
    servers = [line.split()[1] for line in text.splitlines() if line.startswith("nameserver ")]
    for machine in machines:
        for server in servers:
            if "." in server:
                machine.run("ip", "route", "replace", "unreachable", server)


def connect(one: Namespace, one_address: str, other: Namespace, other_address: str) -> None:
    """Lays a cable between two machines; addresses such as 10.77.1.1/24."""
    ends = f"{one.name[-6:]}-{other.name[-6:]}"[:15], f"{other.name[-6:]}-{one.name[-6:]}"[:15]
    run("ip", "link", "add", ends[0], "netns", one.name, "type", "veth", "peer", "name", ends[1], "netns", other.name)
    for machine, end, address in ((one, ends[0], one_address), (other, ends[1], other_address)):
        run("ip", "-n", machine.name, "address", "add", address, "dev", end)
        run("ip", "-n", machine.name, "link", "set", end, "up")


class Engine:
    """A `dockerd` in a namespace. `hostname`: how its node is called in a swarm.

    `daemon_json`: its settings. A runtime that they call nvidia-container-runtime is runc here.
    """

    def __init__(
        self, folder: Path, namespace: Namespace, hostname: str, options: Sequence[str] = (), daemon_json: str = "{}"
    ) -> None:
        self.namespace = namespace
        self.hostname = hostname
        self.socket = folder / "docker.sock"
        self.folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "daemon.json").write_text(daemon_json)
        runc = shutil.which("runc")
        if runc is not None:
            (folder / "bin").mkdir()
            (folder / "bin" / "nvidia-container-runtime").symlink_to(runc)

    def start(self) -> "Engine":
        """Starts it, or starts it again with all that it had; returns when it answers."""
        command = [
            *("unshare", "--uts", "sh", "-c", f'hostname {self.hostname} && exec "$@"', "sh", "dockerd"),
            *("--data-root", str(self.folder / "data"), "--exec-root", str(self.folder / "exec")),
            *("--pidfile", str(self.folder / "pid"), "-H", f"unix://{self.socket}", *self._options),
            *("--config-file", str(self.folder / "daemon.json")),
        ]
        environment = {**os.environ, "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.namespace.enter(*command),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(f"the engine of {self.hostname} to answer", self._answers, _READY_S)
        return self

    def docker(self, *command: str | Path, timeout_s: float = 120, stdin: bytes | None = None) -> str:
        """Runs Docker's command line with this engine."""
        return run("docker", "-H", f"unix://{self.socket}", *command, timeout_s=timeout_s, stdin=stdin)

    def containers(self) -> list[str]:
        """The containers that run."""
        return self.docker("ps", "--format", "{{.Names}}").split()

    def kill(self) -> None:
        """Ends the engine and all its containers at once, as a loss of power would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_STOP_S)
        for number in _processes_below(str(self.folder)):
            with contextlib.suppress(OSError):
                os.kill(number, 9)
        (self.folder / "pid").unlink(missing_ok=True)

    def stop(self) -> None:
        """Ends the engine in order, and its containers with it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
        self.kill()

    def remove(self) -> None:
        """Ends it and removes its folders."""
        self.stop()
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((mount for mount in mounts if mount.startswith(f"{self.folder}/")), reverse=True):
            subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)  # a mount point itself stays, empty

    def log(self) -> str:
        """What the engine has said."""
        return (self.folder / "log").read_text(errors="replace")

    def _answers(self) -> bool:
        assert self._process is None or self._process.poll() is None, f"dockerd has ended: {self.log()[-2000:]}"
        done = subprocess.run(
            ["docker", "-H", f"unix://{self.socket}", "version"], check=False, capture_output=True, timeout=20
        )
        return done.returncode == 0


@contextlib.contextmanager
def small_disk(folder: Path, size_mb: int) -> Iterator[None]:
    """A folder on a disk of its own, of this size; what is in it is gone afterwards."""
    folder.mkdir(parents=True)
    image = folder.with_suffix(".disk")
    with image.open("wb") as file:
        file.truncate(size_mb * 2**20)
    run("mkfs.ext4", "-q", "-F", image)
    run("mount", "-o", "loop", image, folder)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=False, capture_output=True)
        image.unlink()


def init_swarm(manager: Engine, address: str) -> str:
    """Makes the engine the manager of a swarm; returns the token by which others join it."""
    manager.docker("swarm", "init", "--advertise-addr", address, "--listen-addr", f"{address}:2377")
    return manager.docker("swarm", "join-token", "-q", "worker").strip()


def import_python(engine: Engine) -> str:
    """Gives the engine an image with this very Python and its standard library; returns its name."""
    changes = ["--change", "ENV PATH=/usr/local/bin:/usr/bin:/bin", "--change", "ENV LD_LIBRARY_PATH=/usr/local/lib"]
    engine.docker("import", *changes, "-", PYTHON_IMAGE, stdin=python_archive())
    return PYTHON_IMAGE


def python_archive(more: Mapping[str, Path] | None = None) -> bytes:
    """A file system as a tar archive: Python in /usr/local, and `more`: path -> folder or file."""
    base = Path(sys.base_prefix)
    version = f"python{sysconfig.get_python_version()}"
    libraries = {f"/usr/local/lib/{path.name}": path.resolve() for path in base.glob("lib/libpython*.so.*")}
    python = {
        "/usr/local/bin/python3": (base / "bin" / version).resolve(),
        f"/usr/local/lib/{version}": base / "lib" / version,
    }
    return archive_of({**python, **libraries, **(more or {})})


def archive_of(files: Mapping[str, Path]) -> bytes:
    """A file system as a tar archive: these files and folders, the libraries that they need, a user 1000."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for library in _shared_libraries(_binaries(files)):
            archive.add(library.resolve(), str(library).lstrip("/"))
        for path, source in files.items():
            archive.add(source, path.lstrip("/"), filter=_without_what_no_test_needs)
        _file(archive, "etc/passwd", _PASSWD)
        for folder in ("tmp", "app", "run/secrets", "root"):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(member)
    return buffer.getvalue()


def _without_what_no_test_needs(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = Path(member.name).parts
    left_out = len(parts) > 4 and (parts[4] in _LEFT_OUT or parts[4].startswith("config-"))
    return None if left_out else _without_caches(member)


def _without_caches(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in member.name else member


def _binaries(files: Mapping[str, Path]) -> list[Path]:
    found = [path for source in files.values() for path in source.rglob("*.so*") if path.is_file()]
    return found + [source for source in files.values() if source.is_file() and os.access(source, os.X_OK)]


def _shared_libraries(binaries: Sequence[Path]) -> set[Path]:
    """The system's libraries that the dynamic linker would load for these, the linker itself included."""
    done = subprocess.run(["ldd", *map(str, binaries)], check=False, capture_output=True, text=True, timeout=120)
    words = {word for line in done.stdout.splitlines() for word in line.split() if not word.endswith(":")}
    return {Path(word) for word in words if word.startswith(("/lib", "/usr/lib")) and Path(word).is_file()}


def _file(archive: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(text), 0o644
    archive.addfile(member, io.BytesIO(text.encode()))


def _processes_below(folder: str) -> Iterator[int]:
    """The processes whose command line names the folder (containerd and its shims), and all that they started."""
    children: dict[int, list[int]] = {}
    roots = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError, ValueError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
            if folder.encode() in (entry / "cmdline").read_bytes() and int(entry.name) != os.getpid():
                roots.append(int(entry.name))
    seen: set[int] = set()
    while roots:
        number = roots.pop()
        if number not in seen:
            seen.add(number)
            roots += children.get(number, [])
    yield from seen


def settle_down(seconds: float) -> None:
    """Lets time pass where the claim is that nothing happens in it."""
    time.sleep(seconds)
