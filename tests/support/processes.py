"""Real programs in tests: started with an environment of their own, watched through their output, ended for certain."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
_POLL_S = 0.02
_KILLED_S = 60  # for the kernel to end what was killed
_T = TypeVar("_T")
# The product's own settings: what the developer has set must not reach the programs under test.
_SETTINGS = re.compile(
    r"(FAIRCOMPUTE|ENDPOINT|INFERENCE|TUNNEL|MODEL|GRADIO|SPACE|IDLE|WORKER|FALLBACK|MAX_GPU|VISITOR)_"
    r"|(TUNNEL|DEPLOYMENT|START_TIMEOUT_S|SPACE|FALLBACK|DATA_DIR|MEMORY_PLAN|LORAS|SAFETY_CHECKER_MODEL|PUBLIC_PAGE)$"
    r"|(OWNER_NAME|GPU_NAME|PRIVACY_TEXT|USE_POLICY|REPORT_TO|BLOCKED_WORDS)$"
)
_BLOCK = 100  # ports
_marks: list[socket.socket] = []


def is_setting(name: str) -> bool:
    """Tells whether an environment variable of this name configures the product."""
    return bool(_SETTINGS.match(name.upper()))


def free_port() -> int:
    """Returns a TCP port that nobody on this machine listens on, a different one at every call.

    It stays free until its program listens there, however late: the kernel gives it to nobody who asks for any port,
    nor to a connection, and no other test run takes it.
    """
    for port in _ports:
        with socket.socket() as listener, contextlib.suppress(OSError):  # it is taken, by a service of the machine say
            listener.bind(("", port))
            return port
    raise AssertionError("no port is left")


def _own_ports() -> Iterator[int]:
    """Ports outside the range that the kernel gives from. A mark that ends with this process keeps other runs off."""
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    blocks = range(11_000, 65_000, _BLOCK)
    outside = [first for first in blocks if first + _BLOCK <= low or first > high]
    for first in random.sample(outside or blocks, len(outside or blocks)):
        mark = socket.socket(socket.AF_UNIX)
        try:
            mark.bind(f"\0ports-of-tests-{first}")
        except OSError:  # another run has these
            mark.close()
            continue
        _marks.append(mark)
        yield from range(first, first + _BLOCK)


_ports = _own_ports()


def is_open(port: int) -> bool:
    """Whether somebody listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(what: str, probe: Callable[[], _T], timeout_s: float = 60) -> _T:
    """Returns the first truthy answer of `probe`; fails the test when `timeout_s` pass without one."""
    deadline = time.monotonic() + timeout_s
    while True:
        late = time.monotonic() > deadline  # before asking: a machine that stood still is asked once more
        if answer := probe():
            return answer
        if late:
            pytest.fail(f"waited {timeout_s:g} s for {what}, the last answer was {answer!r}")
        time.sleep(_POLL_S)


def is_running(pid: int) -> bool:
    """Tells whether a process with this id exists and has not ended (a zombie has)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@dataclass(frozen=True)
class Program:
    """A started program. It leads a session of its own, so a signal can go to it alone or to its whole group."""

    argv: tuple[str, ...]
    process: subprocess.Popen[bytes]
    output_file: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        """Returns all that it has printed so far, stdout and stderr as they came."""
        return self.output_file.read_text(errors="replace")

    def wait_for_line(self, pattern: str, timeout_s: float = 60) -> re.Match[str]:
        """Returns the match in the first whole line where the regular expression is found.

        Fails the test, with the end of the output, when `timeout_s` pass or when the program ends without such a line.
        """
        expression = re.compile(rf"(?m)(?:{pattern}).*\n")
        deadline = time.monotonic() + timeout_s
        while True:
            # Before reading: nothing can follow what is read then, and after a standstill it is read once more.
            ended, late = self.process.poll(), time.monotonic() > deadline
            if match := expression.search(self.output()):
                return match
            if ended is not None:
                pytest.fail(f"{self} ended with code {ended} without a line like {pattern!r}:\n{self._tail()}")
            if late:
                pytest.fail(f"{self} printed no line like {pattern!r} within {timeout_s:g} s:\n{self._tail()}")
            time.sleep(_POLL_S)

    def wait_for_end(self, timeout_s: float = 60) -> int:
        """Returns the exit code (negative: the signal that ended it); fails the test when `timeout_s` pass before."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self} still ran after {timeout_s:g} s:\n{self._tail()}")

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """Sends a signal to the program, or, as a terminal does with Ctrl-C, to its whole process group."""
        if group:
            os.killpg(self.pid, number)
        else:
            self.process.send_signal(number)

    def stop(self, timeout_s: float = 15) -> int:
        """Ends the program (TERM, KILL when `timeout_s` pass) and what is left of its group; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)  # a frozen one could not react
            self.process.terminate()
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait(_KILLED_S)
        if not is_running(self.pid):  # else its number is somebody else's by now
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        return code

    def _tail(self, characters: int = 3000) -> str:
        return self.output()[-characters:] or "(it printed nothing)"

    def __str__(self) -> str:
        return f"`{' '.join(self.argv)}` (pid {self.pid})"


class Processes:
    """Starts programs, and ends those that still run when `stop_all` is called."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs: list[Program] = []

    def start(
        self,
        argv: Sequence[str | Path],
        env: Mapping[str, str | None] | None = None,
        *,
        cwd: Path = REPOSITORY,
        user: int | None = None,
    ) -> Program:
        """Starts a program with the tests' environment, without the product's settings, changed by `env`.

        A value of None takes a variable away. The program reads an empty stdin, and its output goes to a file. `user`:
        the id of the user and the group that it runs as, if not ours (only root can do that).
        """
        words = tuple(str(word) for word in argv)
        output_file = self._folder / f"{len(self._programs)}.log"
        with output_file.open("wb") as output:
            process = subprocess.Popen(
                words,
                cwd=cwd,
                env=_environment(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )
        program = Program(words, process, output_file)
        self._programs.append(program)
        return program

    def stop_all(self) -> None:
        """Ends all that still run, the one started last first."""
        for program in reversed(self._programs):
            program.stop()


def _environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not is_setting(name)}
    changed = {**inherited, "PYTHONUNBUFFERED": "1", "GRADIO_ANALYTICS_ENABLED": "False", **changes}
    return {name: value for name, value in changed.items() if value is not None}
