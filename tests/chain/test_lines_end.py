"""`make lines` that is ended: it leaves no process, no network namespace and no interface behind, whenever that is."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.home_network import cannot_be_had
from tests.support.processes import REPOSITORY, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.networks, pytest.mark.timeout(300)]
_END_S = 60.0


def _names(*words: str) -> set[str]:
    """First words of what `ip` lists."""
    told = subprocess.run(["ip", *words], capture_output=True, text=True, check=True, timeout=30).stdout
    return {line.split()[0] for line in told.splitlines() if line.strip()}


def _processes(folder: Path) -> list[str]:
    """Those that were started with this folder, in their command or their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if str(folder).encode() in told and int(process.name) != os.getpid():
                found.append(told.decode(errors="replace"))
    return found


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("a namespace is there", signal.SIGTERM),
        ("the programs start", signal.SIGINT),
        ("pictures are drawn", signal.SIGTERM),
    ],
)
def test_nothing_is_left(moment: str, number: signal.Signals, tmp_path: Path) -> None:
    """Told to end while it lays its lines, while its programs start, in mid-picture."""
    if reason := cannot_be_had():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    links = _names("-o", "link")
    command = [sys.executable, "-m", "benchmarks.lines", "--line", "0", "--line", "1", "--requests", "2000"]
    lines = subprocess.Popen([*command, "--keep", str(tmp_path)], cwd=REPOSITORY)
    troubles = tmp_path / "line0" / "troubles.log"
    met = {
        "a namespace is there": lambda: f"lines{lines.pid}-0-home" in _names("netns"),
        "the programs start": lambda: (tmp_path / "line0" / "worker.log").exists(),
        "pictures are drawn": lambda: troubles.exists() and "step" in troubles.read_text(),
    }[moment]
    try:
        wait_until(moment, met, _END_S)
        lines.send_signal(number)
        assert lines.wait(_END_S) == 1
    finally:
        lines.kill()
        lines.wait()
    assert [name for name in _names("netns") if name.startswith(f"lines{lines.pid}-")] == []
    assert _names("-o", "link") == links
    assert _processes(tmp_path) == []
