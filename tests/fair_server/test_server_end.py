"""The Fair server as a process: whatever ends it, nothing of it is left."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fair_servers import ACCOUNT, DEADLINE_S, SERVER, Account, RunningServer, write_nodes
from tests.support.processes import Processes, Program, is_running, wait_until

pytestmark = pytest.mark.slow


def start(processes: Processes, folder: Path) -> RunningServer:
    """Starts a server whose temporary folder lies in `folder`."""
    program = processes.start(
        [*SERVER, "--nodes", write_nodes(folder)], env={**ACCOUNT, "TMPDIR": str(folder), "HF_TOKEN": "hf_secret"}
    )
    return RunningServer(program.wait_for_line(r"Fair server ready on (\S+)")[1], program)


def launch_all(account: Account) -> list[int]:
    """Starts programs of all kinds and returns the ids of their processes."""
    account.launch("stubborn")
    launched = account.launch("parent", files={"/app/config.toml": b"a secret"})
    stubborn = account.launch(
        "any",
        [
            "python3",
            "-c",
            "import os, signal, time; signal.signal(15, signal.SIG_IGN);"
            "print(os.getpid(), flush=True); time.sleep(600)",
        ],
        wait=False,
    )
    return [int(pid) for pid in account.first_line(launched).split()] + [int(account.first_line(stubborn))]


def kill(program: Program) -> None:
    program.process.kill()


def terminate(program: Program) -> None:
    program.process.terminate()


def interrupt(program: Program) -> None:
    program.signal(signal.SIGINT, group=True)


@pytest.mark.parametrize("end", [terminate, interrupt, kill])
def test_nothing_is_left(processes: Processes, tmp_path: Path, end: Callable[[Program], None]) -> None:
    """TERM, Ctrl-C and even KILL of the server end all programs, their children too, and remove its folder."""
    server = start(processes, tmp_path)
    pids = launch_all(server.log_in())
    (folder,) = tmp_path.glob("fair-server-*")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(is_running(pid) for pid in pids)
    end(server.program)
    code = server.program.wait_for_end(DEADLINE_S)
    assert code == (-signal.SIGKILL if end is kill else 0)
    wait_until("all programs to be gone", lambda: not any(is_running(pid) for pid in pids), DEADLINE_S)
    wait_until("the folder to be gone", lambda: not folder.exists(), DEADLINE_S)
    assert "a secret" not in server.program.output()
    assert "hf_secret" not in server.program.output()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("end", ["delete", "own", "kill"])
def test_nothing_leaves(processes: Processes, tmp_path: Path, end: str) -> None:
    """A daemon of a program, in a session of its own, ends with the program as in a container, and with the server."""
    server = start(processes, tmp_path)
    account = server.log_in()
    daemon = (
        "import subprocess, sys, time; child = subprocess.Popen(['sleep', '600'], start_new_session=True,"
        " stdout=subprocess.DEVNULL); print(child.pid, flush=True); time.sleep(600 if sys.argv[1:] else 0)"
    )
    launched = account.launch("any", ["python3", "-c", daemon, *([] if end == "own" else ["stay"])])
    pid = int(account.first_line(launched))
    if end == "delete":
        account.delete(launched)
    elif end == "kill":
        server.program.process.kill()
    wait_until("the daemon to be gone", lambda: not is_running(pid), DEADLINE_S)


def test_end_with_stdin(tmp_path: Path) -> None:
    """With --until-stdin-closes the server ends when the process that holds its standard input does."""
    read_end, write_end = os.pipe()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*SERVER, "--until-stdin-closes", "--nodes", write_nodes(tmp_path)],
            stdin=read_end,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ACCOUNT, "TMPDIR": str(tmp_path)},
        )
    os.close(read_end)
    try:
        program = Program((sys.executable,), process, tmp_path / "log")
        server = RunningServer(program.wait_for_line(r"Fair server ready on (\S+)")[1], program)
        pids = launch_all(server.log_in())
        os.close(write_end)
        assert process.wait(DEADLINE_S) == 0
        wait_until("all programs to be gone", lambda: not any(is_running(pid) for pid in pids), DEADLINE_S)
    finally:
        process.kill()
        process.wait()


def test_readers_see_the_end(processes: Processes, tmp_path: Path) -> None:
    """Who reads a program's output when the server is told to end gets it whole, closed in order."""
    server = start(processes, tmp_path)
    account = server.log_in()
    launched = account.launch("sleep")
    with account.request("GET", f"/buckets/{launched.bucket_id}/%23stdout", stream=True) as answer:
        pieces = answer.iter_content(None)
        said = b""
        while b"\n" not in said:  # the program is unbuffered: the line's end may come alone
            said += next(pieces)
        assert said == b"up\n"
        terminate(server.program)
        assert list(pieces) == []
    assert server.program.wait_for_end(DEADLINE_S) == 0


def test_secrets_stay(processes: Processes, tmp_path: Path) -> None:
    """A program does not inherit what looks like a secret in the server's environment."""
    account = start(processes, tmp_path).log_in()
    launched = account.launch("environment")
    assert account.exit_code(launched) == 0
    assert b"hf_secret" not in account.output(launched)
