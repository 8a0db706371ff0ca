"""The Fair client against a real Fair server: launched, listed, ended, deleted; deadlines and refusals told."""

import threading
from collections.abc import Iterator

import pytest

from errors import FairError
from fair_api.client import DeadlineFairClient
from fair_api.models import Container, ContainerSpec, Program, ProgramEnd
from tests.support.fair_fronts import client_of, fair_that_cannot_list, fair_with_expired_tokens
from tests.support.fair_servers import DEADLINE_S, EMAIL, PASSWORD, RunningServer, running_server
from tests.support.processes import free_port, wait_until

LABELS = {"role": "inference", "deployment": "me/space", "fingerprint": "abc"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for all tests of this module."""
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def fair(server: RunningServer) -> DeadlineFairClient:
    return client_of(server.url, DEADLINE_S)


def end_of(fair: DeadlineFairClient, program: Program) -> ProgramEnd:
    end = wait_until("the program to end", lambda: fair.end_of(program), DEADLINE_S)
    assert end is not None
    return end


def row_of(fair: DeadlineFairClient, program: Program) -> Container:
    rows = fair.containers(program.node)
    assert rows is not None
    return next(row for row in rows if row.id == str(program.id))


def test_nodes(fair: DeadlineFairClient) -> None:
    """Nodes are found by name and by id, with their address; another name is told together with those there are."""
    assert {node.name for node in fair.nodes()} == {"gpu", "tunnel"}
    assert fair.node("gpu") == fair.node("node-1")
    assert fair.node("tunnel").host_address == "127.0.0.1"
    with pytest.raises(FairError, match=r"'mars'.*gpu, tunnel.*INFERENCE_NODE"):
        fair.node("mars")


def test_wrong_password(server: RunningServer) -> None:
    """A wrong password is told with the status that came back and what to check, and is not repeated."""
    with pytest.raises(FairError, match=r"401.*FAIRCOMPUTE_PASSWORD") as caught:
        DeadlineFairClient(server.url, EMAIL, "wrong password")
    assert caught.value.status == 401
    assert "wrong password" not in str(caught.value)


def test_launch_with_files(fair: DeadlineFairClient) -> None:
    """A program gets its files from memory; its exit code and last words come back."""
    files = {"/app/a.toml": "key = 'ä'\n", "/app/b c.json": "{}"}
    program = fair.launch("gpu", ContainerSpec("echo", ["one", "two"], files))
    assert end_of(fair, program) == ProgramEnd(3, "err")
    assert str(end_of(fair, program)) == "it ended with exit code 3, its last words: err"


def test_the_program_reads_its_files(fair: DeadlineFairClient) -> None:
    """An argument that names a copied file leads to it, with its text unchanged."""
    code = "import sys; sys.exit(open(sys.argv[1], 'rb').read().decode())"
    program = fair.launch("gpu", ContainerSpec("any", ["python3", "-c", code, "/app/a"], {"/app/a": "Grüße, {x}"}))
    assert end_of(fair, program) == ProgramEnd(1, "Grüße, {x}")


def test_launch_does_not_wait(fair: DeadlineFairClient) -> None:
    """A launch returns while its program runs; it has no end yet, and its container is listed with labels."""
    program = fair.launch("gpu", ContainerSpec("sleep", labels=LABELS))
    wait_until("its node to accept it", lambda: fair.status(program) == "Processing")
    assert fair.end_of(program) is None
    wait_until("it to run", lambda: row_of(fair, program).status == "running")
    row = row_of(fair, program)
    assert (row.role, row.deployment, row.fingerprint, row.alive) == ("inference", "me/space", "abc", True)
    fair.delete_container("gpu", row.id, timeout_s=DEADLINE_S)
    assert row_of(fair, program).status == "ended"


def test_delete_of_what_is_gone(fair: DeadlineFairClient) -> None:
    """Deleting what has ended, or what never was, is no error."""
    program = fair.launch("gpu", ContainerSpec("echo"))
    end_of(fair, program)
    fair.delete_container("gpu", str(program.id), timeout_s=DEADLINE_S)
    fair.delete_container("gpu", "no such container", timeout_s=DEADLINE_S)


def test_three_at_once_keep_their_ids(fair: DeadlineFairClient) -> None:
    """Programs launched side by side through one client keep their own ids and ends."""
    ends: dict[int, ProgramEnd] = {}

    def run(code: int) -> None:
        command = ["python3", "-c", f"import sys; print({code}, file=sys.stderr); sys.exit({code})"]
        ends[code] = end_of(fair, fair.launch("gpu", ContainerSpec("any", command)))

    threads = [threading.Thread(target=run, args=(code,)) for code in range(10, 16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert ends == {code: ProgramEnd(code, str(code)) for code in range(10, 16)}


@pytest.mark.parametrize(
    ("image", "told"), [("nowhere", "does not run the image nowhere"), ("not-installed", "no-such-executable")]
)
def test_image_that_does_not_start(fair: DeadlineFairClient, image: str, told: str) -> None:
    """An image that the node does not run, or cannot, is told in the last words."""
    end = end_of(fair, fair.launch("gpu", ContainerSpec(image)))
    assert end.exit_code != 0
    assert told in end.last_words


def test_taken_port(fair: DeadlineFairClient) -> None:
    """A port that is taken is told in the last words."""
    port = free_port()
    first = fair.launch("gpu", ContainerSpec("answer-placed", ports=[(port, 8000)]))
    wait_until("the first to run", lambda: row_of(fair, first).status == "running")
    end = end_of(fair, fair.launch("gpu", ContainerSpec("answer-placed", ports=[(port, 8000)])))
    assert str(port) in end.last_words
    fair.delete_container("gpu", str(first.id), timeout_s=DEADLINE_S)


def test_last_words_are_the_end_of_much(fair: DeadlineFairClient) -> None:
    """Of a long stderr the last lines are told, bounded in length."""
    code = "import sys; [print('line', n, 'x' * 50, file=sys.stderr) for n in range(50000)]; sys.exit(1)"
    end = end_of(fair, fair.launch("gpu", ContainerSpec("any", ["python3", "-c", code])))
    assert "line 49999" in end.last_words
    assert len(end.last_words) <= 800


@pytest.mark.parametrize("status", [302, 404, 405, 501])
def test_fair_that_cannot_list(server: RunningServer, status: int) -> None:
    """A Fair without a list says so by None; all else works with it."""
    with fair_that_cannot_list(server.url, status) as front:
        fair = client_of(front.url, DEADLINE_S)
        assert fair.containers("gpu") is None
        assert end_of(fair, fair.launch("gpu", ContainerSpec("echo"))) == ProgramEnd(3, "err")


def test_fair_that_answers_anything_with_a_page(server: RunningServer) -> None:
    """A Fair that answers unknown routes with a page of its own cannot list either."""
    with fair_that_cannot_list(server.url, 200, "<html>welcome</html>") as front:
        assert client_of(front.url, DEADLINE_S).containers("gpu") is None


def test_a_proxy_of_the_environment(server: RunningServer, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy set in the environment is not asked for a Fair server of this machine."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert client_of(server.url, DEADLINE_S).nodes()


def test_expired_token(server: RunningServer) -> None:
    """An expired token leads to one new login and the answer, also when many threads find out at once."""
    expired: set[str] = set()
    with fair_with_expired_tokens(server.url, expired, at_once=8) as front:
        fair = client_of(front.url, DEADLINE_S)
        expired.add(fair.token)
        found: list[int] = []
        threads = [threading.Thread(target=lambda: found.append(len(fair.nodes()))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert found == [2] * 8
        assert fair.token not in expired
        assert sum(request.path.endswith("/auth/login") for request in front.requests) == 2


def test_nothing_secret_in_repr(fair: DeadlineFairClient) -> None:
    """Neither the client nor what it launches shows a password, a token or a file."""
    spec = ContainerSpec("echo", files={"/app/config.toml": "token = 'hush'"})
    assert PASSWORD not in repr(fair)
    assert str(fair.token) not in repr(fair)
    assert "hush" not in repr(spec)
