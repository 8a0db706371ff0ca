"""A program in a terminal of a test's own, which is answered as a person would answer it."""

import os
import pty
import select
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


def converse(
    command: Sequence[str | Path], answers: Sequence[tuple[str, str]], *, env: Mapping[str, str], timeout_s: float = 90
) -> tuple[int, str]:
    """Runs it with 80 columns; types each answer once its question has been printed. Returns status and output."""
    pid, terminal = pty.fork()
    if pid == 0:  # the program
        os.execvpe(str(command[0]), [str(word) for word in command], {**env, "COLUMNS": "80", "TERM": "xterm"})
    printed, seen, left = b"", 0, list(answers)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                printed += os.read(terminal, 65536)
            except OSError:  # it has ended
                break
        if left and left[0][0].encode() in printed[seen:]:
            seen = len(printed)
            time.sleep(0.2)  # until the program reads
            os.write(terminal, left.pop(0)[1].encode())
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    text = printed.decode(errors="replace")
    assert not left, f"it never asked {left[0][0]!r}: {text}"
    return os.waitstatus_to_exitcode(status), text
