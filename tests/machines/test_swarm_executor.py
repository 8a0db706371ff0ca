"""What holds for programs on a swarm alone: files as secrets, GPUs, and a server that is started anew."""

import functools
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.docker_engines import missing, settle_down
from tests.support.fair_places import Place, running_place
from tests.support.fair_servers import Account, Launched, RunningServer, commands, start_server
from tests.support.processes import Processes, wait_until

pytestmark = [pytest.mark.timeout(300)]

_PRINTING = "import sys, time\nfor n in range(1000000): print(n, flush=True); time.sleep(0.2)"
_SHORT = "import sys, time; print('begun', flush=True); time.sleep(8); print('over'); sys.exit(5)"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if reason := missing():
        pytest.fail(reason)
    with running_place(tmp_path_factory.mktemp("place")) as place:
        yield place


@pytest.fixture(scope="module")
def module_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    processes = Processes(tmp_path_factory.mktemp("server"))
    yield processes
    processes.stop_all()


@pytest.fixture(scope="module")
def server(place: Place, module_processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> RunningServer:
    return start_server(module_processes, tmp_path_factory.mktemp("nodes"))


@pytest.fixture
def account(server: RunningServer, place: Place) -> Iterator[Account]:
    """An account; after the test no service and no secret is left."""
    account = server.log_in()
    yield account
    for row in account.request("GET", "/nodes/gpu/containers").json()["containers"]:
        if row["status"] != "ended":
            account.request("DELETE", f"/nodes/gpu/containers/{row['id']}")
    assert left(place) == []


def left(place: Place) -> list[str]:
    """The services and secrets of the swarm, and the containers that run."""
    assert place.engine is not None
    listings = (("service", "ls", "-q"), ("secret", "ls", "-q"), ("ps", "-q"))
    return [line for listing in listings for line in place.engine.docker(*listing).split()]


def test_copied_files(account: Account) -> None:
    """A copied file lies at its path, for the image's user alone; a relative one where its argument says."""
    files = {"/app/config.toml": b"key = 1", "notes/n 1+2.txt": "é".encode()}
    launched = account.launch("show", list(files), files=files)
    assert account.exit_code(launched) == 0, account.output(launched, "#stderr")
    assert account.output(launched).decode().splitlines()[:2] == [
        "/app/config.toml 0o400 key = 1",
        "/run/secrets/notes/n 1+2.txt 0o400 é",
    ]


@pytest.mark.parametrize(
    ("files", "stdin", "named"),
    [
        ({"/app/big": bytes(500 * 1024)}, b"", "/app/big has 512000 bytes"),
        ({"/app/empty": b""}, b"", "/app/empty is empty"),
        ({"/app/a": b"a"}, b"some", "no standard input"),
    ],
)
def test_what_a_swarm_does_not_take(account: Account, files: dict[str, bytes], stdin: bytes, named: str) -> None:
    """A file that is too large, an empty one and an input fail the program with a line that says what to do."""
    put = account.put_program(commands("sleep", keys=list(files))).json()
    launched = Launched(**put)
    account.put_file(launched.bucket_id, "#stdin", stdin)
    for key, content in files.items():
        account.put_file(launched.bucket_id, key, content)
    assert account.exit_code(launched) == 125
    assert named in account.output(launched, "#stderr").decode()


def test_input_that_comes_late(account: Account) -> None:
    """Input that comes when the program has begun is dropped, and the end of `#stderr` says so."""
    launched = account.launch("cat", stdin=b"some")
    assert account.exit_code(launched) == 0
    assert "4 bytes were dropped" in account.output(launched, "#stderr").decode()


def test_gpus(account: Account, place: Place) -> None:
    """As many programs have a GPU as the node has; one more is told that none is free, and not run without."""

    def with_gpu() -> dict[str, int]:
        asked = commands("sleep")
        asked[0]["container_desc"]["runtime"] = "nvidia"
        ids: dict[str, int] = account.put_program(asked).json()
        account.put_file(ids["bucket_id"], "#stdin", b"")
        return ids

    def status(ids: dict[str, int]) -> dict[str, object]:
        rows: list[dict[str, object]] = account.request("GET", "/nodes/gpu/containers").json()["containers"]
        return next(row for row in rows if row["id"] == str(ids["program_id"]))

    def runs(ids: dict[str, int]) -> bool:
        return status(ids)["status"] == "running"

    first, second = with_gpu(), with_gpu()
    for ids in (first, second):
        wait_until("it to run", functools.partial(runs, ids), 60)
    third = with_gpu()
    wait_until("the third to end", lambda: status(third)["status"] == "ended", 60)
    stderr = account.request("GET", f"/buckets/{third['bucket_id']}/%23stderr").text
    assert "no free NVIDIA-GPU" in stderr
    assert place.engine is not None
    place.engine.docker("node", "update", "--label-add", "changed=1", "box")  # Docker 20.10 ends what has reserved
    settle_down(2)
    assert [runs(first), runs(second)] == [True, True]


def test_server_started_anew(account: Account, processes: Processes, tmp_path: Path) -> None:
    """A server that was killed and started anew has the same rows: what runs is ended by it, what has ended meanwhile
    is told with its exit code and its last words; outputs are read from their beginning.
    """
    running = account.launch("any", ["python3", "-c", _PRINTING], labels={"role": "inference"})
    assert account.first_line(running) == "0"
    short = account.launch("any", ["python3", "-c", _SHORT])
    assert account.first_line(short) == "begun"
    failed = account.launch("echo")
    assert account.exit_code(failed) == 3
    rows = {key: account.container(one) for key, one in (("running", running), ("failed", failed))}
    wait_until("the short one to end", lambda: account.container(short)["status"] == "ended", 60)
    anew = start_server(processes, tmp_path).log_in()
    assert {**anew.container(running), "started_at": None} == {**rows["running"], "started_at": None}
    assert anew.container(failed) == rows["failed"]
    assert anew.output(failed) == b"out\n"
    assert (anew.container(short)["exit_code"], anew.output(short)) == (5, b"begun\nover\n")
    assert anew.first_line(running) == "0"
    assert anew.delete(running).json()["status"] == "ended"
    assert anew.exit_code(running) in (137, 143)


def test_ends_while_no_server_looks(place: Place, processes: Processes, tmp_path: Path) -> None:
    """What ends while the server is away is told by its next run; what was starting then is there once."""
    server = start_server(processes, tmp_path)
    account = server.log_in()
    short = account.launch("any", ["python3", "-c", _SHORT], files={"/app/a": b"a"})
    assert account.first_line(short) == "begun"
    starting = account.launch("sleep", files={"/app/a": b"a"})
    wait_until("its service", lambda: len(services(place)) == 2, 60)
    server.program.signal(signal.SIGKILL)
    server.program.wait_for_end()
    wait_until("the short one's container to end", lambda: len(left_running(place)) == 1, 60)
    anew = start_server(processes, tmp_path).log_in()
    wait_until("it to run", lambda: anew.container(starting)["status"] == "running", 60)
    assert anew.container(short)["exit_code"] == 5
    assert anew.output(short) == b"begun\nover\n"
    assert len(left_running(place)) == 1
    anew.delete(starting)
    assert left(place) == []


def services(place: Place) -> list[str]:
    """The swarm's services."""
    assert place.engine is not None
    return place.engine.docker("service", "ls", "-q").split()


def left_running(place: Place) -> list[str]:
    """The containers that run."""
    assert place.engine is not None
    return place.engine.docker("ps", "-q").split()
