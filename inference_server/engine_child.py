"""The server's handle on one engine process: it starts and ends the process, sends it messages and hears its own.

It imports nothing heavy: the server starts its engine process first, and both import the rest side by side.
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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inference_server.engine_config import EngineConfig
    from inference_server.messages import FromEngine, ToEngine

PACKAGE_PARENT = Path(__file__).resolve().parent.parent


class EngineChild:
    """A running engine process. Must be created on the server's main thread: the kernel ends the child with it."""

    MODULE = "inference_server.engine_process"  # whose `main` the process runs; a program of tests has engines more

    def __init__(self, config: "EngineConfig | None" = None) -> None:
        """Starts the process; without `config` it waits for one, which must be sent first."""
        ours, theirs = socket.socketpair()
        environment = {**os.environ, "PYTHONPATH": _with_package_first(os.environ.get("PYTHONPATH"))}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", self.MODULE, str(theirs.fileno()), str(os.getpid())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=2,  # the server's own stdout holds its one line
            env=environment,
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        self._unsent: SimpleQueue[ToEngine | None] = SimpleQueue()
        threading.Thread(target=self._write, name=f"orders-{self.pid}", daemon=True).start()
        if config is not None:
            self.send(config)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: "ToEngine") -> None:
        """Hands over a message and never waits, even for a frozen process. `on_end` reports one that is gone."""
        self._unsent.put(message)

    def _write(self) -> None:
        with contextlib.suppress(OSError):
            while (message := self._unsent.get()) is not None:
                self._connection.send(message)

    def listen(self, on_message: "Callable[[FromEngine], None]", on_end: Callable[[str], None]) -> None:
        """Calls `on_message` for each message and `on_end` once, with the reason, both on a thread of its own."""

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
        """Ends the process at once. It holds nothing worth saving."""
        self._process.kill()
        self._unsent.put(None)

    def discard(self) -> None:
        """Ends a process that nobody listens to."""
        self.listen(lambda message: None, lambda reason: None)  # whose thread waits for its end
        self.kill()


def _with_package_first(python_path: str | None) -> str:
    """So that the child finds this package from any working directory."""
    return os.pathsep.join([str(PACKAGE_PARENT), *([python_path] if python_path else [])])


def _ending(status: int) -> str:
    if status < 0:
        return f"it was ended by {signal.Signals(-status).name}"
    return f"it ended with exit code {status}"
