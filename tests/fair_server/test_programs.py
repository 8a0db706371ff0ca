"""What the Fair server runs: output, files, ports, failures, containers and their end."""

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.fair_places import Place
from tests.support.fair_places import place as place_of_tests
from tests.support.fair_servers import DEADLINE_S, Account, commands, running_server
from tests.support.processes import is_running, wait_until


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory, place: Place) -> Iterator[Account]:
    """An account of one server for all tests of this module."""
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server.log_in()


def ask(port: int, said: bytes = b"hello") -> bytes:
    """Returns what a port of the node answers, empty if it closes at once."""
    with socket.create_connection((place_of_tests().address, port), timeout=DEADLINE_S) as connection:
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while piece := connection.recv(4096):
                answer += piece
        except ConnectionResetError:
            pass
        return answer


def test_output_and_exit_code(account: Account) -> None:
    """A program's output, error output and exit code come back, and the program is `Processing` until its end."""
    launched = account.launch("echo", ["a b", "$HOME", "*"])
    assert account.exit_code(launched) == 3
    assert account.output(launched) == b"out a b $HOME *\n"
    assert account.output(launched, "#stderr") == b"err\n"
    going_on = account.launch("sleep")
    assert account.first_line(going_on) == "up"  # streamed, while it runs
    assert account.status(going_on) == "Processing"
    answer = account.request("GET", f"/nodes/gpu/programs/{going_on.program_id}/result")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "NOT_COMPLETED")
    account.delete(going_on)


@pytest.mark.processes_only
def test_stdin(account: Account) -> None:
    """What is put into `#stdin` is the program's standard input, and its eof is the input's end."""
    launched = account.launch("cat", stdin=b"line one\nline two")
    assert account.exit_code(launched) == 0
    assert account.output(launched) == b"line one\nline two"


@pytest.mark.slow
def test_large_output(account: Account) -> None:
    """25 MB of output can be read while the program runs, and again after its end, by several at once."""
    code = "import sys\nfor n in range(25): sys.stdout.write(f'{n:04d}' * 262144)"
    expected = b"".join(f"{n:04d}".encode() * 262144 for n in range(25))
    launched = account.launch("any", ["python3", "-c", code])
    with ThreadPoolExecutor(3) as pool:
        first = list(pool.map(lambda _: account.output(launched).rstrip(b"\n") == expected, range(3)))
    assert first == [True] * 3
    assert account.exit_code(launched) == 0
    assert account.output(launched).rstrip(b"\n") == expected  # Docker ends the last line of a log


@pytest.mark.processes_only
def test_copied_files(account: Account) -> None:
    """A copied file lies in the program's own folder, mode 0600, an argument that names it is rewritten to where."""
    files = {"/app/config.toml": b"key = 1", "notes/n 1+2.txt": "é".encode(), "/app/eof": b"end"}
    launched = account.launch("show", list(files), files=files)
    assert account.exit_code(launched) == 0, account.output(launched, "#stderr")
    *shown, folder_line = account.output(launched).decode().splitlines()
    folder, mode = folder_line.split()
    assert mode == "0o700"
    assert shown == [
        f"{folder}/files/app/config.toml 0o600 key = 1",
        f"{folder}/files/notes/n 1+2.txt 0o600 é",
        f"{folder}/files/app/eof 0o600 end",
    ]
    wait_until("the folder with the secrets to go", lambda: not Path(folder).exists(), DEADLINE_S)
    key = account.request("GET", f"/buckets/{launched.bucket_id}/%2Fapp%2Fconfig.toml")
    assert key.status_code == 404  # the bucket's copy went with it


def test_start_waits_for_files(account: Account) -> None:
    """A program is `Queued` until every file to be copied got its eof, not only its content."""
    answer = account.put_program(commands("show", ["/app/a"], keys=["/app/a", "/app/b"])).json()
    program, bucket = answer["program_id"], answer["bucket_id"]
    status = f"/nodes/node-1/programs/{program}/info"
    account.put_file(bucket, "/app/a", b"a")
    assert account.request("PUT", f"/buckets/{bucket}/%2Fapp%2Fb", data=b"b").ok
    assert account.request("GET", status).json() == {"status": "Queued"}
    rows = account.request("GET", "/nodes/gpu/containers").json()["containers"]
    assert next(row for row in rows if row["id"] == str(program))["status"] == "starting"
    assert account.request("PUT", f"/buckets/{bucket}/%2Fapp%2Fb/eof").ok
    wait_until("the end", lambda: account.request("GET", status).json()["status"] == "Completed", DEADLINE_S)


def test_uploads_have_bounds(account: Account) -> None:
    """A file takes nothing after its eof, nothing beyond its bound, and output cannot be put from outside."""
    bucket = account.put_program(commands("show", keys=["/a"])).json()["bucket_id"]
    account.put_file(bucket, "/b", b"b")
    assert account.request("PUT", f"/buckets/{bucket}/%2Fb", data=b"more").json()["error"]["code"] == "FILE_ENDED"
    assert account.request("PUT", f"/buckets/{bucket}/%23stdout", data=b"x").json()["error"]["code"] == "READ_ONLY"
    head = f"PUT /api/v0/buckets/{bucket}/%2Fc HTTP/1.1\r\nHost: x\r\nContent-Length: {(64 << 20) + 1}\r\n"
    with socket.create_connection(("127.0.0.1", urlsplit(account.api).port or 0), DEADLINE_S) as connection:
        connection.sendall(f"{head}Authorization: Bearer {account.token}\r\n\r\n".encode())
        assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 413 ")
    assert account.request("GET", f"/buckets/{bucket}/%2Fb").content == b"b"


def test_environment(account: Account) -> None:
    """A program gets the server's environment without its account."""
    launched = account.launch("environment")
    assert account.exit_code(launched) == 0
    environment = json.loads(account.output(launched))
    assert "PATH" in environment
    assert not [name for name in environment if name.startswith("FAIRCOMPUTE")]


@pytest.mark.parametrize(
    ("image", "command", "exit_code", "named"),
    [
        ("no-such-image", [], 125, "Its images are: echo"),
        ("not-installed", [], 127, "no-such-executable-anywhere"),
        ("any", [], 125, "nothing to run"),
        ("any", ["/etc/passwd"], 126, "Permission denied"),
    ],
)
@pytest.mark.parametrize("wait", [True, False])
def test_cannot_start(account: Account, image: str, command: list[str], exit_code: int, named: str, wait: bool) -> None:
    """What cannot be started is that program's failure: completed, an exit code, and one clear line in `#stderr`."""
    launched = account.launch(image, command, wait=wait)
    assert account.exit_code(launched) == exit_code
    line = account.output(launched, "#stderr").decode()
    assert line.count("\n") == 1
    assert named.lower() in line.lower()
    row = account.container(launched)
    assert (row["status"], row["exit_code"]) == ("ended", exit_code)
    assert row["ended_at"] is not None


@pytest.mark.processes_only  # the first process of a container cannot send itself a signal
def test_end_by_signal(account: Account) -> None:
    """A program that a signal ended has exit code 128 + the signal's number."""
    launched = account.launch("any", ["python3", "-c", "import os; os.kill(os.getpid(), 9)"])
    assert account.exit_code(launched) == 137


def test_placed_port(account: Account, free_port: Callable[[], int]) -> None:
    """`{port:8000}` in an image is the host port published for 8000: the program listens there itself."""
    port = free_port()
    launched = account.launch("answer-placed", ports=[(port, 8000)], wait=False)
    assert account.first_line(launched) == "up"
    listening = 8000 if place_of_tests().is_swarm else port
    assert ask(port) == f"{listening} hello".encode()
    account.delete(launched)
    unpublished = account.launch("answer-placed")
    assert account.first_line(unpublished) == "up"  # on a free port
    account.delete(unpublished)


def test_relayed_port(account: Account, free_port: Callable[[], int]) -> None:
    """A host port that differs from the container's is relayed, in both directions, until the program ends."""
    host, inside = free_port(), free_port()
    launched = account.launch("answer", [str(inside)], ports=[(host, inside)])
    assert account.first_line(launched) == "up"
    said = os.urandom(1 << 20)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: ask(host, said), range(8))) == [f"{inside} ".encode() + said] * 8
    account.delete(launched)
    with pytest.raises(ConnectionRefusedError):
        ask(host)


@pytest.mark.processes_only
@pytest.mark.parametrize("image", ["answer-placed", "answer"])
def test_one_port_published_twice(account: Account, free_port: Callable[[], int], image: str) -> None:
    """All host ports of one container port lead to the program, which stands on the first where the image has it so."""
    hosts, inside = [free_port() for _ in range(3)], 8000 if image == "answer-placed" else free_port()
    command = [] if image == "answer-placed" else [str(inside)]
    launched = account.launch(image, command, ports=[(host, inside) for host in hosts])
    assert account.first_line(launched) == "up"
    listening = hosts[0] if image == "answer-placed" else inside
    assert [ask(host) for host in hosts] == [f"{listening} hello".encode()] * 3
    account.delete(launched)


def test_host_port_twice(account: Account, free_port: Callable[[], int]) -> None:
    """A program that publishes one host port twice is told so: no other program is in its way."""
    port = free_port()
    launched = account.launch("sleep", ports=[(port, 8000), (port, 8001)])
    assert account.exit_code(launched) == 125
    assert f"Host port {port} is published twice by this program" in account.output(launched, "#stderr").decode()


@pytest.mark.parametrize("image", ["answer-placed", "sleep"])
def test_taken_port(account: Account, place: Place, image: str) -> None:
    """A host port that something else listens on fails the program, whether it would be placed or relayed."""
    with place.taken_port() as port:
        launched = account.launch(image, ports=[(port, 8000)], wait=False)
        assert account.exit_code(launched) == 125
        assert f"port {port} is taken" in account.output(launched, "#stderr").decode()


def test_race_for_a_port(account: Account, free_port: Callable[[], int]) -> None:
    """Of many programs that ask for one host port at once exactly one gets it, and its end frees the port."""
    port = free_port()
    with ThreadPoolExecutor(8) as pool:
        racers = list(pool.map(lambda _: account.launch("answer-placed", ports=[(port, 8000)]), range(8)))

    def statuses() -> list[str]:
        return [account.container(racer)["status"] for racer in racers]

    wait_until("one to run, the others to end", lambda: sorted(statuses()) == ["ended"] * 7 + ["running"], DEADLINE_S)
    winner = racers[statuses().index("running")]
    assert {account.exit_code(racer) for racer in racers if racer is not winner} == {125}
    assert account.delete(winner).ok
    following = account.launch("answer-placed", ports=[(port, 8000)])
    assert account.first_line(following) == "up"
    account.delete(following)


def test_containers(account: Account) -> None:
    """The list of containers tells what runs, its labels and times; a label that was not given is null."""
    labels = {"role": "inference", "deployment": "tests", "fingerprint": "f00d"}
    launched, plain = account.launch("sleep", labels=labels, wait=False), account.launch("sleep", node="tunnel")
    assert account.first_line(launched) == "up"
    row = account.container(launched)
    assert row == {
        "id": str(launched.program_id),
        "image": "sleep",
        **labels,
        "generation": None,
        "status": "running",
        "created_at": row["created_at"],
        "started_at": row["started_at"],
        "ended_at": None,
        "exit_code": None,
    }
    assert row["started_at"].endswith("Z")
    by_id = account.request("GET", "/nodes/node-1/containers").json()
    assert row in by_id["containers"]
    assert account.first_line(plain) == "up"
    other = account.container(plain, "tunnel")
    assert (other["role"], other["deployment"], other["fingerprint"]) == (None, None, None)
    assert str(plain.program_id) not in [one["id"] for one in by_id["containers"]]
    assert account.delete(plain, "gpu").status_code == 404
    ended = account.delete(launched).json()
    assert (ended["status"], ended["exit_code"], ended["role"]) == ("ended", 143, "inference")
    assert ended["ended_at"] >= ended["started_at"]
    assert account.delete(launched).json() == ended
    assert account.container(launched) == ended
    account.delete(plain, "tunnel")


def test_delete_before_start(account: Account) -> None:
    """A program that still waits for its files can be deleted, and never starts."""
    answer = account.put_program(commands("show", keys=["/app/a"])).json()
    row = account.request("DELETE", f"/nodes/gpu/containers/{answer['program_id']}").json()
    assert (row["status"], row["started_at"], row["exit_code"]) == ("ended", None, 125)


@pytest.mark.processes_only
def test_delete_frozen(account: Account) -> None:
    """A stopped process and all its children are gone when DELETE has answered."""
    launched = account.launch("parent")
    parent, child = (int(pid) for pid in account.first_line(launched).split())
    os.kill(parent, signal.SIGSTOP)
    os.kill(child, signal.SIGSTOP)
    assert account.delete(launched).json()["status"] == "ended"
    assert not is_running(parent)
    wait_until("the child to be gone", lambda: not is_running(child), DEADLINE_S)


@pytest.mark.slow
def test_delete_stubborn(account: Account) -> None:
    """A process that ignores TERM is killed after a grace, however many ask for it."""
    launched = account.launch("stubborn")
    assert account.first_line(launched) == "up"
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda _: account.delete(launched).json(), range(2)))
    assert [(row["status"], row["exit_code"]) for row in rows] == [("ended", 137)] * 2


@pytest.mark.processes_only
def test_nothing_outlives_its_leader(account: Account) -> None:
    """When the first process of a program ends, the others of it are ended, as in a container."""
    launched = account.launch("parent", ["--end"])
    _, child = (int(pid) for pid in account.first_line(launched).split())
    assert account.exit_code(launched) == 7
    wait_until("the child to be gone", lambda: not is_running(child), DEADLINE_S)
