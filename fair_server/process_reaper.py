"""The reaper: a process beside the server that ends all programs and removes their files if the server is killed.

Linux ends the direct children of a killed server (PR_SET_PDEATHSIG), but not their children. So the reaper reads a
pipe on which the server names its process groups, a line `+GROUP` or `-GROUP` each. When the pipe ends, the server has
ended: the reaper kills the groups that are left and the processes that have left theirs (`kill_strays`), and removes
the server's folder of copied secrets.

It runs as a script and imports the standard library alone, so that it starts in milliseconds.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

FOLDER_VARIABLE = "FAIR_PROGRAM_FOLDER"  # in every program's environment, and so in that of all that it starts
_SCANS_AT_MOST = 20
_SCAN_PAUSE_S = 0.02  # a killed process is gone by then


class Reaper:
    """The server's end of the pipe."""

    def __init__(self, folder: Path) -> None:
        """Starts the process; at its end it removes `folder`."""
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is for the server
            cwd="/",
            env={},
        )

    def watch(self, group: int) -> None:
        """Makes the reaper kill the process group if the server ends before `forget`."""
        self._say(f"+{group}\n")

    def forget(self, group: int) -> None:
        """Takes back `watch`: the group has ended, and Linux may soon give its number to another."""
        self._say(f"-{group}\n")

    def close(self) -> None:
        """Ends the process, which removes the folder."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)

    def _say(self, line: str) -> None:
        # If somebody has killed the reaper, programs run all the same: there is still PR_SET_PDEATHSIG.
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                os.write(self._process.stdin.fileno(), line.encode())


def kill_strays(folder: str) -> None:
    """Kills every process of the programs whose folder is `folder` or lies below it, whatever its process group is.

    A process that starts a session of its own (a daemon, `setsid`) leaves its program's group. Its environment still
    names the program's folder, unless it has cleared it. Works where /proc is: on Linux.
    Source: man 5 proc, /proc/PID/environ
    """
    for _ in range(_SCANS_AT_MOST):  # again, as one may have started another just before it ended
        strays = [number for number in os.listdir("/proc") if number.isdecimal() and _is_below(number, folder)]
        for number in strays:
            with contextlib.suppress(OSError):
                os.kill(int(number), signal.SIGKILL)
        if not strays:
            return
        time.sleep(_SCAN_PAUSE_S)


def _is_below(number: str, folder: str) -> bool:
    try:
        with open(f"/proc/{number}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:  # another user's, or it has ended
        return False
    own = f"{FOLDER_VARIABLE}={folder}".encode()
    return any(variable == own or variable.startswith(own + b"/") for variable in variables)


def main(folder: str) -> None:
    """Reads lines until the server is gone, then cleans up after it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line.startswith("+"):
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)
    with contextlib.suppress(OSError):  # no /proc
        kill_strays(folder)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
