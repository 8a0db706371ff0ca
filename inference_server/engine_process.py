"""The engine process: `python -m inference_server.engine_process FD PID`, started by the server, never by hand.

It loads a model, warms it up and draws what comes through the pipe, one drawing at a time. It ends when the pipe
closes or the server dies, however the server died: what it holds (memory, a GPU) is free at once.
"""

import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from queue import SimpleQueue

from inference_server import engines
from inference_server.engines import model_folder
from inference_server.messages import (
    Cancel,
    Cancelled,
    Draw,
    DrawFailed,
    Drawn,
    FromEngine,
    Load,
    LoadFailed,
    RawImage,
    Ready,
    Stage,
    Step,
)

PR_SET_PDEATHSIG = 1  # man 2 prctl


class EngineProcess:
    """The child's side of the pipe: a reader thread takes orders while the main thread draws."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._orders: SimpleQueue[Draw] = SimpleQueue()
        self._cancelled: set[int] = set()
        self._send_lock = threading.Lock()

    def run(self) -> None:
        """Loads, then draws until the process is ended."""
        try:
            load = self._connection.recv()
        except (EOFError, OSError):  # the server could not start
            return
        threading.Thread(target=self._read, name="orders", daemon=True).start()
        engine = self._load(load)
        while engine is not None:
            self._draw(engine, self._orders.get())

    def _load(self, load: Load) -> engines.LoadedEngine | None:
        """The engine, loaded and warm, or None after the failure was told."""
        try:
            found = model_folder.find(load, lambda text: self._send(Stage(text)))
            self._send(Stage("loading the model"))
            engine = engines.create(load.engine, found.folder, found.name)
            self._send(Stage("warming up"))
            engine.warm_up()
        except Exception as exc:
            traceback.print_exc()  # the log's; the reason alone goes on the wire
            self._send(LoadFailed(short_reason(exc)))
            return None
        self._send(Ready(engine.facts))
        return engine

    def _draw(self, engine: engines.LoadedEngine, order: Draw) -> None:
        def on_step(step: int, num_steps: int, preview: RawImage | None) -> bool:
            self._send(Step(order.number, step, num_steps, preview))
            return order.number in self._cancelled

        started_s = time.monotonic()
        try:
            images = engine.draw(order.drawing, on_step)
        except engines.DrawingStoppedError:
            self._send(Cancelled(order.number))
        except Exception as exc:
            traceback.print_tb(exc.__traceback__)  # without the exception's own text, which may hold the prompt
            self._send(DrawFailed(order.number, short_reason(exc)))
        else:
            self._send(Drawn(order.number, images, time.monotonic() - started_s))
        self._cancelled.discard(order.number)

    def _read(self) -> None:
        """Takes orders until the server is gone; then nothing here is worth finishing."""
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                os._exit(0)
            if isinstance(message, Cancel):
                self._cancelled.add(message.number)
            elif isinstance(message, Draw):
                self._orders.put(message)

    def _send(self, message: FromEngine) -> None:
        try:
            with self._send_lock:
                self._connection.send(message)
        except OSError:
            os._exit(0)


def short_reason(exc: Exception) -> str:
    """An exception in one line without the library's build paths; at most 500 characters."""
    text = str(exc).partition("Invoked with")[0]  # what follows holds the prompt
    lines = [line.strip() for line in text.splitlines() if line.strip() and "/src/cpp/" not in line]
    return (" ".join(lines) or type(exc).__name__)[:500]


def die_with(server_pid: int) -> None:
    """The kernel ends this process when its parent ends, even by SIGKILL and even while a library holds it busy."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server_pid:  # it ended before the kernel was told
        os._exit(0)


def main() -> None:
    die_with(server_pid=int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server decides
    EngineProcess(Connection(int(sys.argv[1]))).run()
    os._exit(0)  # without the libraries' own endings, which may wait


if __name__ == "__main__":
    main()
