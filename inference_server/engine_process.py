"""The engine process: `python -m inference_server.engine_process FD PID`, started by the server, never by hand.

It loads a model, warms it up and draws what comes through the pipe. It ends when the pipe closes or the server dies, in
whatever way the server died, so that its memory and its GPU are free at once.
"""

import ctypes
import os
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from queue import Empty, Queue, SimpleQueue

from inference_server import engines
from inference_server.engine_config import EngineConfig
from inference_server.engines import gpu_probe, short_reason
from inference_server.messages import (
    Cancel,
    Cancelled,
    Draw,
    DrawFailed,
    Drawn,
    FromEngine,
    LoadFailed,
    Ready,
    Stage,
)

PR_SET_PDEATHSIG = 1  # man 2 prctl
UNSENT_MAX = 1000  # messages; beyond that the engine waits for the server
SEND_DEADLINE_S = 5.0  # for what is unsent when the process ends


class PipeChannel:
    """The engine's channel to the server.

    One thread reads orders from the pipe. Another sends the engine's messages: a picture of some MB must not hold up
    the steps of other drawings while the server is busy.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._unsent: Queue[FromEngine | None] = Queue(UNSENT_MAX)
        self._sender = threading.Thread(target=self._send, name="answers", daemon=True)
        self._orders: SimpleQueue[Draw] = SimpleQueue()
        self._open: set[int] = set()  # numbers that came and did not end yet
        self._cancelled: set[int] = set()

    def open(self) -> None:
        """Starts both threads."""
        self._sender.start()
        threading.Thread(target=self._read, name="orders", daemon=True).start()

    def close(self) -> None:
        """Waits until all messages are sent."""
        self._unsent.put(None)
        self._sender.join(SEND_DEADLINE_S)

    def take(self, timeout_s: float | None = None) -> Draw | None:
        try:
            return self._orders.get(block=timeout_s != 0, timeout=timeout_s)
        except Empty:
            return None

    def is_cancelled(self, number: int) -> bool:
        return number in self._cancelled

    def tell(self, message: FromEngine) -> None:
        if isinstance(message, Drawn | DrawFailed | Cancelled):
            self._open.discard(message.number)
            self._cancelled.discard(message.number)
        self._unsent.put(message)

    def _send(self) -> None:
        while (message := self._unsent.get()) is not None:
            try:
                self._connection.send(message)
            except OSError:  # the server is gone
                os._exit(0)

    def _read(self) -> None:
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                os._exit(0)
            if isinstance(message, Cancel) and message.number in self._open:
                self._cancelled.add(message.number)
            elif isinstance(message, Draw):
                self._open.add(message.number)
                self._orders.put(message)


def run(connection: Connection) -> int:
    """Loads the model and draws until the process is ended; returns the exit code when it cannot go on."""
    try:
        config = connection.recv()
    except (EOFError, OSError):  # the server could not start
        return 0
    channel = PipeChannel(connection)
    channel.open()
    engine = _load(config, channel)
    if engine is not None:
        _work(engine, channel)
    channel.close()
    return 0 if engine is None else 1


def _work(engine: engines.LoadedEngine, channel: PipeChannel) -> None:
    """Draws for as long as the engine can."""
    try:
        engine.work(channel)
    except Exception as exc:
        print(f"The engine cannot go on: {type(exc).__name__}, raised in:", file=sys.stderr)
        traceback.print_tb(exc.__traceback__)  # without the exception's own text, which may hold a prompt
    else:
        print("The engine stopped taking drawings, which it should never do.", file=sys.stderr)


def _load(config: EngineConfig, channel: PipeChannel) -> engines.LoadedEngine | None:
    """The engine, loaded and warm; None after its failure was reported."""
    if config.engine == "diffusers" and (hardware := gpu_probe.look()):
        channel.tell(hardware)
    try:
        engine = engines.load(config, lambda text: channel.tell(Stage(text)))
        channel.tell(Stage("warming up"))
        engine.warm_up()
    except Exception as exc:
        traceback.print_exc()  # for the log; only the reason goes on the wire
        told = exc if isinstance(exc, engines.ModelLoadError) else engines.ModelLoadError
        channel.tell(LoadFailed(short_reason(exc), told.code, told.permanent))
        return None
    channel.tell(Ready(engine.model_info))
    return engine


def die_with(server_pid: int) -> None:
    """The kernel ends this process when its parent ends, even by SIGKILL and even while a library holds it busy."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server_pid:  # it ended before prctl took effect
        os._exit(0)


def main() -> None:
    die_with(server_pid=int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server decides
    exit_code = run(Connection(int(sys.argv[1])))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # the libraries' own cleanup may wait for ever


if __name__ == "__main__":
    main()
