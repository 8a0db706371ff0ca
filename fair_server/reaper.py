"""A process beside the server that cleans up when the server is killed: it outlives it by a moment, no more.

Linux ends the direct children of a killed server (PR_SET_PDEATHSIG), but not their children. So this one holds the
read end of a pipe on which the server names its process groups; when the pipe ends, whatever ended the server, it
kills the groups that are left and removes the server's folder of copied secrets.

Run as a script, with nothing but the standard library, so that it starts in milliseconds. Lines: `+GROUP`, `-GROUP`.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path


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
        """Has the process group killed if the server ends before `forget`."""
        self._say(f"+{group}\n")

    def forget(self, group: int) -> None:
        """Takes back `watch`: the group has ended, and its number may be another's soon."""
        self._say(f"-{group}\n")

    def close(self) -> None:
        """Ends the process, which removes the folder."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)

    def _say(self, line: str) -> None:
        # A reaper that someone killed is no reason to fail a program: PR_SET_PDEATHSIG is still there.
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                os.write(self._process.stdin.fileno(), line.encode())


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
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
