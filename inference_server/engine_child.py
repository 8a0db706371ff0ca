"""The server's handle on one engine process: start it, send it orders, hear what it says, end it.

Imported before anything heavy, so that the engine loads its model while the server imports its web framework.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

from inference_server.messages import FromEngine, Load, ToEngine

PACKAGE_PARENT = Path(__file__).resolve().parent.parent


class EngineChild:
    """A running engine process. Must be created on the server's main thread: the kernel ends the child with it."""

    def __init__(self, load: Load | None = None) -> None:
        """Starts the process; without `load` it waits to be sent one."""
        ours, theirs = socket.socketpair()
        environment = {**os.environ, "PYTHONPATH": _with_package_first(os.environ.get("PYTHONPATH"))}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "inference_server.engine_process", str(theirs.fileno()), str(os.getpid())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=2,  # the server's own stdout holds its one line
            env=environment,
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        self._unsent: SimpleQueue[ToEngine | None] = SimpleQueue()
        threading.Thread(target=self._write, name=f"orders-{self.pid}", daemon=True).start()
        if load is not None:
            self.send(load)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: ToEngine) -> None:
        """Hands over an order, without waiting for a process that is frozen; one that is gone is told by `on_end`."""
        self._unsent.put(message)

    def _write(self) -> None:
        with contextlib.suppress(OSError):
            while (message := self._unsent.get()) is not None:
                self._connection.send(message)

    def listen(self, on_message: Callable[[FromEngine], None], on_end: Callable[[str], None]) -> None:
        """Calls back on a thread of its own for each message, and once with the reason when the process is gone."""

        def read() -> None:
            while True:
                try:
                    on_message(self._connection.recv())
                except (EOFError, OSError):
                    break
            self.kill()
            on_end(_ending(self._process.wait()))

        threading.Thread(target=read, name=f"engine-{self.pid}", daemon=True).start()

    def kill(self) -> None:
        """Ends the process at once: it holds nothing that is worth saving."""
        self._process.kill()
        self._unsent.put(None)


def _with_package_first(python_path: str | None) -> str:
    """The child finds this package whatever the working directory is."""
    return os.pathsep.join([str(PACKAGE_PARENT), *([python_path] if python_path else [])])


def _ending(status: int) -> str:
    if status < 0:
        return f"it was ended by {signal.Signals(-status).name}"
    return f"it ended with exit code {status}"
