"""A Space that only knows ENDPOINT_SECRET, and workers that dial it: two real programs and the line between them."""

import json
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from endpoint.credentials import Credentials
from tests.support import process_tree
from tests.support.chain import SECRET
from tests.support.processes import Processes, Program, wait_until
from tests.support.space import Space, start_space

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
KEY = Credentials.from_secret(SECRET).worker_key
WORKERS_ALONE = {"ENDPOINT_SECRET": SECRET, "FALLBACK": "none"}


def start_worker(processes: Processes, url: str, **settings: str) -> Program:
    command = [sys.executable, "-m", "inference_server", "--connect", url]
    return processes.start(command, {"WORKER_KEY": KEY, "WORKER_NAME": "box", **settings})


def start_connected(processes: Processes, space: Space, name: str = "box") -> Program:
    """A worker that the Space has seen."""
    worker = start_worker(processes, space.url, WORKER_NAME=name)
    space.program.wait_for_line(f"worker {name} .*is there", 120)
    return worker


@pytest.fixture
def space(processes: Processes) -> Space:
    """A page whose workers alone draw."""
    return start_space(processes, WORKERS_ALONE)


@pytest.fixture(scope="module")
def shared_space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """One for several tests, each with workers of other names."""
    started = Processes(tmp_path_factory.mktemp("space"))
    yield start_space(started, WORKERS_ALONE)
    started.stop_all()


def test_a_worker_dials_a_space_and_draws(processes: Processes, shared_space: Space) -> None:
    """The visitor's prompt is drawn at home; the worker listens on no port, and the Space starts no program."""
    worker = start_connected(processes, shared_space)
    assert shared_space.draw().size == (256, 256)
    assert shared_space.living() == {}
    assert "listening" not in worker.output()
    assert KEY not in worker.output() + shared_space.program.output()


def test_a_worker_that_is_killed_and_started_again(processes: Processes, shared_space: Space) -> None:
    """Between two pictures the worker dies and another one is started: the next prompt waits for it."""
    first = start_connected(processes, shared_space, "killed")
    shared_space.draw()
    first.signal(signal.SIGKILL)
    wait_until("the Space to miss it", lambda: "worker killed is gone" in shared_space.program.output())
    start_connected(processes, shared_space, "another")
    assert shared_space.draw().size == (256, 256)


def test_sigterm_ends_a_worker_in_order(processes: Processes, shared_space: Space) -> None:
    """A worker that is told to end says goodbye and exits with 0."""
    worker = start_connected(processes, shared_space, "ended")
    shared_space.draw()
    worker.signal(signal.SIGTERM)
    assert worker.wait_for_end() == 0
    wait_until("the goodbye", lambda: "worker ended is gone: it said goodbye" in shared_space.program.output())


def test_the_owner_pauses_a_worker(processes: Processes, space: Space, tmp_path: Path) -> None:
    """`pause` ends the engine, the visitor is told, a restart keeps it, `resume` draws again; the
    worker without its engine takes less than 200 MB. Its pictures leave its disk as soon as the Space has them.
    """
    kept = {"DATA_DIR": str(tmp_path), "MAX_GPU_MINUTES_PER_DAY": "60"}

    def command(*words: str) -> str:
        ran = processes.start([sys.executable, "-m", "inference_server", *words], kept)
        assert ran.wait_for_end() == 0
        return ran.output()

    worker = start_worker(processes, space.url, **kept)
    space.program.wait_for_line("worker box .*is there", 120)
    space.draw()
    assert command("status").startswith(f"Connected to {space.url} as box since ")
    assert json.loads(command("status", "--json"))["pictures_today"] == 1
    assert "then the GPU is free" in command("pause", "--for", "2h")
    worker.wait_for_line("paused by the owner until")
    wait_until("the engine process to end", lambda: not process_tree.descendants(worker.pid))
    assert 0 < resident_bytes(worker.pid) < 200 * 10**6
    worker.signal(signal.SIGKILL)
    worker.wait_for_end()
    worker = start_worker(processes, space.url, **kept, WORKER_NAME="again")
    space.program.wait_for_line("worker again .*is there", 120)
    assert process_tree.descendants(worker.pid) == []
    with pytest.raises(AssertionError, match="refused"):
        space.draw()
    space.program.wait_for_line("its owner has paused it until .* UTC")
    assert "The pause is over." in command("resume")
    worker.wait_for_line("engine ready", 120)
    assert space.draw().size == (256, 256)
    wait_until("its pictures to be gone", lambda: not list((tmp_path / "results").iterdir()))
    worker.signal(signal.SIGTERM)
    assert worker.wait_for_end() == 0


def resident_bytes(pid: int) -> int:
    """The machine's memory that this process takes, what it shares with others among it."""
    (line,) = re.findall(r"(?m)^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text())
    return int(line) * 1024


def test_a_sketch_meanwhile(processes: Processes) -> None:
    """While no worker is there the Space draws on its own CPU, and says so once one has come."""
    space = start_space(processes, {"ENDPOINT_SECRET": SECRET, "WORKER_WAIT_S": "0"})
    assert space.draw().size == (256, 256)
    assert any("inference_server" in argv for argv in space.living().values())


def test_a_wrong_key(processes: Processes, shared_space: Space) -> None:
    """The worker's log says in one sentence that the key is wrong and how to get the right one."""
    worker = start_worker(processes, shared_space.url, WORKER_KEY="0" * 64)
    worker.wait_for_line("the key is wrong", 60)
    assert "0" * 64 not in worker.output()
