"""The tests' own helper for programs: it sees their output and leaves none behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import REPOSITORY, Processes, is_running, wait_until

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(600)"


def test_wait_for_line(processes: Processes) -> None:
    """A line is found with its parts, whether it came on stdout or stderr."""
    code = "import sys, os; print('noise'); print(f'port {os.environ[\"NUMBER\"]} open', file=sys.stderr)"
    program = processes.start([sys.executable, "-c", code], {"NUMBER": "17"})
    assert program.wait_for_line(r"port (\d+) open").group(1) == "17"
    assert program.wait_for_end() == 0
    assert "noise" in program.output()


def test_line_that_never_comes(processes: Processes) -> None:
    """The failure says what was waited for, how the program ended, and what it printed instead."""
    program = processes.start([sys.executable, "-c", "raise SystemExit('no such model')"])
    with pytest.raises(pytest.fail.Exception, match=r"(?s)ended with code 1 .*'ready'.*no such model"):
        program.wait_for_line("ready")
    with pytest.raises(pytest.fail.Exception, match=r"no line like 'ready' within 0\.1 s"):
        processes.start(["sleep", "600"]).wait_for_line("ready", 0.1)


def test_own_settings_do_not_reach_programs(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer has set for the product is not seen by programs under test, other variables are."""
    monkeypatch.setenv("FAIRCOMPUTE_PASSWORD", "mine")
    monkeypatch.setenv("TUNNEL", "none")
    monkeypatch.setenv("OTHER", "kept")
    program = processes.start(["env"], {"PATH": os.environ["PATH"], "HOME": None})
    assert program.wait_for_end() == 0
    names = {line.partition("=")[0] for line in program.output().splitlines()}
    assert {"OTHER", "PATH"} <= names
    assert not {"FAIRCOMPUTE_PASSWORD", "TUNNEL", "HOME"} & names


def test_programs_end(processes: Processes) -> None:
    """Frozen ones, deaf ones and what they started are ended too."""
    deaf = processes.start([sys.executable, "-c", STUBBORN])
    deaf.wait_for_line("deaf")
    frozen = processes.start(["sleep", "600"])
    frozen.signal(signal.SIGSTOP)
    parent = processes.start(["sh", "-c", "sleep 600 & echo child $!; wait"])
    child = int(parent.wait_for_line(r"child (\d+)").group(1))
    assert deaf.stop(0.2) == -signal.SIGKILL
    assert frozen.stop() == -signal.SIGTERM
    parent.stop()
    wait_until("the child to end", lambda: not is_running(child))


def test_free_ports_differ(free_port: Callable[[], int]) -> None:
    """No two calls give the same port."""
    assert len({free_port() for _ in range(50)}) == 50


def test_free_ports_stay_free(free_port: Callable[[], int]) -> None:
    """A port is given neither to whoever asks the kernel for any port, nor to another test run."""
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ours = {free_port() for _ in range(300)}
    if low > 20_000:  # else the kernel leaves too few
        assert not ours & set(range(low, high + 1))
    another_run = "from tests.support.processes import free_port; print(*(free_port() for _ in range(300)))"
    done = subprocess.run([sys.executable, "-c", another_run], cwd=REPOSITORY, capture_output=True, text=True)
    theirs = set(map(int, done.stdout.split()))
    assert len(theirs) == 300, done.stderr
    assert not ours & theirs
