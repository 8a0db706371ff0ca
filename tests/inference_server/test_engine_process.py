"""The engine process from inside the pipe: what it answers to orders, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Queue

import pytest

from inference_server.engine_child import EngineChild
from inference_server.engine_config import EngineConfig
from inference_server.messages import (
    BatchStats,
    Cancel,
    Cancelled,
    Draw,
    Drawn,
    FromEngine,
    GenerationParams,
    LoadFailed,
    Ready,
    Stage,
    Step,
)

SUPPORT = Path(__file__).resolve().parent.parent / "support"
DEADLINE_S = 60.0
ENDLESS = 10**6


class Pipe:
    """The server's end of it, and the process at the other."""

    def __init__(self, process: subprocess.Popen[bytes], connection: Connection) -> None:
        self.process, self.connection = process, connection

    def send(self, *messages: object) -> None:
        for message in messages:
            self.connection.send(message)

    def hear(self, kind: type[FromEngine], number: int | None = None) -> FromEngine:
        """The next message of that kind (about that drawing)."""
        while True:
            assert self.connection.poll(DEADLINE_S), f"no {kind.__name__} came"
            message: FromEngine = self.connection.recv()
            if isinstance(message, kind) and number in (None, getattr(message, "number", None)):
                return message


def scripted(model_id: str) -> EngineConfig:
    """Not validated: the engine is registered in the engine process only."""
    return EngineConfig.model_construct(engine="scripted", model_id=model_id)


@contextmanager
def engine_process(model_id: str = "fine") -> Iterator[Pipe]:
    """A process with the scripted engine that was told what to load."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, str(SUPPORT / "scripted_engine.py"), str(theirs.fileno()), str(os.getpid())]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT.parent.parent), str(SUPPORT)])}
    with subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, stderr=subprocess.PIPE) as process:
        theirs.close()
        with Connection(ours.detach()) as connection:
            connection.send(scripted(model_id))
            try:
                yield Pipe(process, connection)
            finally:
                process.kill()


def draw(number: int, prompt: str = "a cat", steps: int = 5) -> Draw:
    return Draw(number, GenerationParams(prompt, "", 64, 64, steps, 7.5, "DDIMScheduler", (1,)))


def test_it_tells_its_stages_then_that_it_is_ready() -> None:
    """Importing, loading, warming up, ready with what the model can do."""
    with engine_process() as pipe:
        stages = [pipe.hear(Stage) for _ in range(3)]
        assert stages == [Stage("importing the engine"), Stage("loading the model"), Stage("warming up")]
        ready = pipe.hear(Ready)
        assert isinstance(ready, Ready)
        assert ready.model_info.images_at_once == 4


def test_orders_join_those_under_way() -> None:
    """A second order is begun beside the first; each ends with its own word."""
    with engine_process() as pipe:
        pipe.send(draw(1, steps=ENDLESS))
        pipe.hear(Step, 1)
        pipe.send(draw(2))
        pipe.hear(Drawn, 2)
        pipe.send(Cancel(1))
        assert pipe.hear(Cancelled) == Cancelled(1)


def test_a_cancel_of_what_has_ended_does_not_reach_a_later_one() -> None:
    """Late and unknown cancels are nobody's."""
    with engine_process() as pipe:
        pipe.send(draw(1))
        pipe.hear(Drawn, 1)
        pipe.send(Cancel(1), Cancel(2), draw(2))
        pipe.hear(Drawn, 2)


@pytest.mark.parametrize(
    ("model_id", "code", "reason"),
    [("busy", "GPU_BUSY", "1 GiB is free"), ("broken", "MODEL_NOT_LOADED", "no such file: unet")],
)
def test_what_cannot_be_loaded_is_told_with_its_code(model_id: str, code: str, reason: str) -> None:
    """The reason goes on the wire, the stack trace into the log; then the process ends by itself."""
    with engine_process(model_id) as pipe:
        assert pipe.hear(LoadFailed) == LoadFailed(reason, code)
        assert pipe.process.stderr is not None
        assert "Traceback" in pipe.process.stderr.read().decode()
        assert pipe.process.wait(DEADLINE_S) == 0


def test_an_engine_that_cannot_go_on_ends_without_a_prompt_in_the_log() -> None:
    """The log says what was raised and where, not its text; the exit code is not 0."""
    with engine_process() as pipe:
        pipe.send(draw(1, steps=ENDLESS), draw(2, prompt="poison of a private wish"))
        assert pipe.process.wait(DEADLINE_S) == 1
        assert pipe.process.stderr is not None
        log = pipe.process.stderr.read().decode()
        assert "RuntimeError" in log
        assert "scripted_engine.py" in log
        assert "private wish" not in log


def test_a_frozen_process_holds_up_nobody() -> None:
    """Orders to a process that reads nothing are put aside: the server goes on, and can end it."""
    child, ended = EngineChild(EngineConfig()), Queue[str]()
    try:
        os.kill(child.pid, signal.SIGSTOP)
        child.listen(lambda message: None, ended.put)
        for number in range(200):
            child.send(draw(number, prompt="a cat" * 400))
    finally:
        child.kill()
    assert "SIGKILL" in ended.get(timeout=DEADLINE_S)


def test_it_ends_with_its_server() -> None:
    """A closed pipe ends the process, whatever it was drawing."""
    with engine_process() as pipe:
        pipe.send(draw(1, steps=ENDLESS))
        pipe.hear(BatchStats)
        pipe.connection.close()
        assert pipe.process.wait(DEADLINE_S) == 0
