"""Ending a long training run when asked to: Ctrl-C and SIGTERM let it finish its step and keep its state."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class Stop:
    """Says whether somebody has asked the process to end."""

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def __bool__(self) -> bool:
        return self._asked

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True


@contextmanager
def running(pid_file: Path) -> Iterator[Stop]:
    """Keeps the process's number in a file meanwhile, so that others can hold it (`kill -STOP`) and let it go on.

    Raises:
        SystemExit: at the end, where somebody has asked to stop: what would come next must not begin.
    """
    pid_file.write_text(str(os.getpid()))
    stop = Stop()
    try:
        yield stop
    finally:
        pid_file.unlink(missing_ok=True)
    if stop:
        raise SystemExit("Stopped, and the state kept; the same command goes on from it.")
