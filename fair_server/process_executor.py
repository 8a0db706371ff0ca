"""The executor that runs programs as processes of this machine, each in a session and a private folder of its own.

No shell or wrapper stands between the server and a program. A process gets what a container would give it, as far as
possible: published ports (by `{port:N}` or a relay), copied files, streamed output, an exit code.
"""

import asyncio
import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

from fair_server.buckets import Bucket
from fair_server.errors import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, CannotStart
from fair_server.executor import ProgramSpec, Survivor
from fair_server.nodes import PORT_PLACEHOLDER, Node
from fair_server.process_reaper import FOLDER_VARIABLE, Reaper
from fair_server.published_ports import ALL_ADDRESSES, LOOPBACK, HostPorts, Relay, check_free
from fair_server.running_process import RunningProcess, StandardStreams

# A variable is withheld if one of the words of its name (between underscores) is of these, or its name starts so.
_SECRET_WORDS = {"SECRET", "SECRETS", "PASSWORD", "PASSWD", "PASS", "PASSPHRASE", "TOKEN", "TOKENS", "CREDENTIAL"}
_SECRET_WORDS |= {"CREDENTIALS", "KEY", "KEYS", "APIKEY", "AUTH", "COOKIE"}
_SECRET_PREFIXES = ("FAIRCOMPUTE_",)


class ProcessExecutor:
    """See `Executor`. It accepts `runtime: nvidia` on any node: a process sees the machine's own GPUs."""

    name = "process"
    ends_programs = True

    def __init__(self, folder: Path, pass_on: Collection[str] = ()) -> None:
        """Keeps the programs' private folders below `folder`, which must be private itself.

        `pass_on`: names of variables that programs get although they are named like secrets.
        """
        self._folder = folder / "programs"
        self._folder.mkdir(mode=0o700)
        self._ports = HostPorts()
        self._reaper = Reaper(folder)
        self._environment = program_environment(os.environ, Path.cwd(), pass_on)
        self._before_exec = _die_with_parent()

    def is_ready(self, node: Node) -> bool:
        """Returns True: every node is this machine."""
        return True

    def is_drained(self, node: Node) -> bool:
        """Returns False: a machine whose server runs is not drained."""
        return False

    def host_address(self, node: Node) -> str:
        """Returns what the nodes file says."""
        return node.host_address or LOOPBACK

    async def survivors(self) -> Sequence[Survivor]:
        """Returns nothing: processes end with the server, however that ends."""
        return ()

    async def attach(self, spec: ProgramSpec, bucket: Bucket, stop_asked: asyncio.Event) -> RunningProcess:
        """Has nothing to attach to."""
        raise CannotStart("Programs of this executor end with the server.")

    async def settle(self, ended: Survivor) -> None:
        """Has nothing left to do: the process has tidied up."""

    async def forget(self, program_id: int) -> None:
        """Keeps no records."""

    async def start(self, spec: ProgramSpec, bucket: Bucket, stop_asked: asyncio.Event) -> RunningProcess:
        """Starts the program, see `Executor.start`; that takes no time in which it could be stopped."""
        folder = self._folder / str(spec.program_id)
        held: set[int] = set()
        relays: list[Relay] = []
        try:
            argv, placed = self._prepare_ports(spec, held)
            places = _copy_files(spec, folder)
            argv = [places.get(argument, argument) for argument in argv]
            await self._start_relays(spec, placed, relays)
            process, streams = await self._spawn(argv, folder)
        except BaseException as exc:
            await self._tidy(relays, held, folder)
            if isinstance(exc, OSError):
                raise CannotStart(f"The program's files could not be prepared: {exc.strerror}.") from exc
            raise
        self._reaper.watch(process.pid)

        async def tidy() -> None:
            self._reaper.forget(process.pid)
            await self._tidy(relays, held, folder)

        return RunningProcess(process, streams, bucket, folder, tidy)

    async def close(self) -> None:
        """Ends the reaper, and with it the folder of all programs."""
        await asyncio.to_thread(self._reaper.close)

    def _prepare_ports(self, spec: ProgramSpec, held: set[int]) -> tuple[list[str], dict[int, int]]:
        """Returns the program's argv, and by container port the host ports that were filled in there.

        Adds to `held` the ports that the program holds.

        Raises:
            CannotStart: a port is taken or published twice, or there is nothing to run.
        """
        address = _publish_address(spec.node)
        prefix = spec.node.images[spec.image].command
        if not prefix and not spec.command:
            raise CannotStart(f"There is nothing to run: image {spec.image} runs its command, and that is empty.")
        spec.check_ports()
        first: dict[int, int] = {}  # of the host ports of a container port
        for published in spec.ports:
            self._ports.hold(published.host, address)
            held.add(published.host)
            first.setdefault(published.container, published.host)
        placed: dict[int, int] = {}
        for number in {int(number) for number in PORT_PLACEHOLDER.findall(" ".join(prefix))}:
            placed[number] = first[number] if number in first else self._ports.hold_free(address)
            held.add(placed[number])
        filled = [PORT_PLACEHOLDER.sub(lambda found: str(placed[int(found[1])]), part) for part in prefix]
        return [*filled, *spec.command], placed

    async def _start_relays(self, spec: ProgramSpec, placed: dict[int, int], relays: list[Relay]) -> None:
        """Relays every published port on which the program does not listen itself; adds to `relays`."""
        for published in spec.ports:
            target = placed.get(published.container, published.container)
            if target == published.host:
                continue
            if published.container not in placed:  # else the program holds it already
                # Who listens there now is not the program, yet would get its visitors.
                check_free(target, LOOPBACK, f"Container port {target}")
            relay = Relay(target)
            await relay.start(_publish_address(spec.node), published.host)
            relays.append(relay)

    async def _spawn(self, argv: list[str], folder: Path) -> tuple[asyncio.subprocess.Process, StandardStreams]:
        executable = shutil.which(argv[0], path=self._environment.get("PATH"))
        if executable is None and not os.path.exists(argv[0]):  # noqa: ASYNC240 - one look at a local path
            raise CannotStart(
                f"The executable {argv[0]} is not found: put it on the server's PATH, or correct the nodes file.",
                EXIT_NOT_FOUND,
            )
        streams = StandardStreams()
        try:
            process = await asyncio.create_subprocess_exec(
                os.path.abspath(executable or argv[0]),  # noqa: ASYNC240 - the program runs in another folder
                *argv[1:],
                stdin=streams.stdin.child,
                stdout=streams.stdout.child,
                stderr=streams.stderr.child,
                cwd=folder,
                env={**self._environment, FOLDER_VARIABLE: str(folder)},
                start_new_session=True,
                preexec_fn=self._before_exec,
            )
        except (OSError, ValueError) as exc:
            streams.close()
            reason = exc.strerror if isinstance(exc, OSError) else str(exc)
            raise CannotStart(f"{argv[0]} could not be executed: {reason}.", EXIT_NOT_EXECUTABLE) from exc
        streams.close_child_ends()
        return process, streams

    async def _tidy(self, relays: list[Relay], held: set[int], folder: Path) -> None:
        for relay in relays:
            await relay.close()
        self._ports.release(held)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _publish_address(node: Node) -> str:
    return LOOPBACK if node.is_loopback else ALL_ADDRESSES


def _copy_files(spec: ProgramSpec, folder: Path) -> dict[str, str]:
    """Makes the program's folder with its copied files in it (0600); returns where each `local_path` lies."""
    folder.mkdir(mode=0o700)
    places: dict[str, str] = {}
    for file in spec.files:
        parts = [part for part in PurePosixPath(file.local_path).parts if part != "/"]
        if not parts or ".." in parts:
            raise CannotStart(f"The file {file.local_path} would lie outside of the program's folder.")
        place = folder.joinpath("files", *parts)
        for parent in reversed([p for p in place.parents if p.is_relative_to(folder / "files")]):
            parent.mkdir(mode=0o700, exist_ok=True)
        target = os.open(place, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
        with os.fdopen(target, "wb") as copy, file.content.open("rb") as content:
            shutil.copyfileobj(content, copy)
        places[file.local_path] = str(place)
    return places


def program_environment(own: Mapping[str, str], start_folder: Path, pass_on: Collection[str] = ()) -> dict[str, str]:
    """Returns the variables for a program, of which `own` are the server's; those of `pass_on` it gets in any case.

    Everything that is not named like a secret passes: programs of this machine need PATH, HOME, LANG, settings of their
    libraries and more that no list could foresee. Secrets for a program come by file.
    A program runs in another folder than the server. So that `python -m MODULE` finds there what it finds where the
    server was started, that folder and the relative ones of PYTHONPATH become absolute entries of PYTHONPATH.
    """
    environment = {name: value for name, value in own.items() if name in pass_on or not _is_secret(name)}
    entries = [entry for entry in own.get("PYTHONPATH", "").split(os.pathsep) if entry]
    found = [str(start_folder / entry) for entry in entries]
    environment["PYTHONPATH"] = os.pathsep.join([*found, str(start_folder)])
    return environment


def _is_secret(name: str) -> bool:
    upper = name.upper()
    return upper.startswith(_SECRET_PREFIXES) or not _SECRET_WORDS.isdisjoint(upper.split("_"))


def _die_with_parent() -> Callable[[], None] | None:
    """Returns what a child calls before it becomes the program: it asks Linux to kill it when the server ends.

    The request is tied to the thread that starts the child. That must be the main thread, which lives as long as the
    server. Other systems have no such request; there the reaper alone cleans up.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # found now: after a fork nothing may be loaded
    server = os.getpid()
    set_pdeathsig, kill = 1, int(signal.SIGKILL)  # PR_SET_PDEATHSIG of <linux/prctl.h>

    def before_exec() -> None:
        prctl(set_pdeathsig, kill, 0, 0, 0)
        if os.getppid() != server:  # the server ended in between: the request came too late
            os._exit(1)

    return before_exec
