"""The Fair server's front door: accounts, tokens, nodes, clusters, and what a wrong request is told."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest
import requests
from fair.client import FairClient

from tests.support.fair_places import EXECUTOR, Place
from tests.support.fair_servers import (
    ACCOUNT,
    DEADLINE_S,
    EMAIL,
    PASSWORD,
    SERVER,
    Account,
    Launched,
    RunningServer,
    commands,
    running_server,
    start_server,
)
from tests.support.processes import REPOSITORY, Processes, free_port, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, place: Place) -> Iterator[RunningServer]:
    """One server for all tests of this module."""
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def account(server: RunningServer) -> Account:
    return server.log_in()


@pytest.fixture(scope="module")
def client(server: RunningServer) -> FairClient:
    """The real client, as PyPI has it today."""
    return FairClient(server.url, EMAIL, PASSWORD)


def test_ready_line(server: RunningServer) -> None:
    """The one line of a ready server names its address, its nodes and its executor."""
    assert (
        server.program.output().splitlines()[0] == f"Fair server ready on {server.url} (2 nodes, {EXECUTOR} executor)"
    )


def test_wrong_password(server: RunningServer) -> None:
    """A wrong password and an unknown email are refused alike, with 401 and a sentence."""
    for email, password in ((EMAIL, "wrong"), ("nobody@example.com", PASSWORD)):
        answer = requests.post(
            f"{server.url}/api/v0/auth/login", json={"email": email, "password": password}, timeout=DEADLINE_S
        )
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "WRONG_CREDENTIALS"


def test_guessed_passwords(processes: Processes, tmp_path: Path) -> None:
    """Whoever guesses is slowed down; who has logged in before is let in at once, from the same address, too."""
    server = start_server(processes, tmp_path)
    server.log_in()

    def guess(_: int) -> int:
        login = {"email": EMAIL, "password": "wrong"}
        return requests.post(f"{server.url}/api/v0/auth/login", json=login, timeout=DEADLINE_S).status_code

    with ThreadPoolExecutor(60) as pool:
        assert set(pool.map(guess, range(50))) == {401}
        assert (
            {401} <= set(pool.map(guess, range(10))) <= {401, 503}
        )  # some are forgiven on a machine that takes its time
        slowed = [pool.submit(guess, number) for number in range(30)]
        wait_until("a guess to be refused", lambda: any(one.done() and one.result() == 503 for one in slowed))
        server.log_in()
        assert not all(one.done() for one in slowed), "it did not wait for the guesses before it"
        assert {one.result() for one in slowed} == {401, 503}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nodes"),
        ("GET", "/auth/login"),
        ("PUT", "/nodes/gpu/programs"),
        ("GET", "/nodes/gpu/containers"),
        ("DELETE", "/nodes/gpu/containers/1"),
        ("PUT", "/buckets/1/x"),
        ("GET", "/buckets/1/%23stdout"),
        ("POST", "/clusters/list"),
        ("GET", "/no/such/route"),
    ],
)
@pytest.mark.parametrize("token", ["", "wrong", "é"])
def test_bad_token(server: RunningServer, method: str, path: str, token: str) -> None:
    """Every route but login answers a bad token with 401 JSON and closes, an unknown route too."""
    headers = {"Authorization": f"Bearer {token}".encode()} if token else {}
    answer = requests.request(method, f"{server.url}/api/v0{path}", headers=headers, timeout=DEADLINE_S)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "BAD_TOKEN"
    assert answer.headers["connection"] == "close"


def test_bad_token_with_a_body(server: RunningServer) -> None:
    """A refused request's sender always gets its 401, and a body that never ends is cut."""
    headers = {"Authorization": "Bearer wrong"}
    for _ in range(20):
        refused = requests.put(
            f"{server.url}/api/v0/buckets/1/x", data=bytes(300_000), headers=headers, timeout=DEADLINE_S
        )
        assert refused.status_code == 401

    def endless() -> Iterator[bytes]:
        for _ in range(16 * 1024):
            yield bytes(65536)
        pytest.fail("1 GB of the body was taken")

    with contextlib.suppress(requests.ConnectionError):
        requests.put(f"{server.url}/api/v0/buckets/1/x", data=endless(), headers=headers, timeout=DEADLINE_S)


def test_expired_token(processes: Processes, tmp_path: Path) -> None:
    """A token ends to be valid after its time, and a new login gives one that is."""
    server = start_server(processes, tmp_path, "--token-ttl-s", "3")

    def is_taken() -> bool:  # on a busy machine it may be used too late, and then not the first one
        return server.log_in().request("GET", "/nodes").status_code == 200

    account = server.log_in()
    wait_until("a new token to be taken", is_taken)
    wait_until("the token to expire", lambda: account.request("GET", "/nodes").status_code == 401)
    wait_until("a new token to be taken", is_taken)


@pytest.mark.slow
def test_fifty_logins_at_once(server: RunningServer) -> None:
    """Fifty logins at once all succeed, and the server answers others meanwhile."""
    account = server.log_in()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            assert account.request("GET", "/nodes").ok

    with ThreadPoolExecutor(51) as pool:
        watching = pool.submit(watch)
        try:
            tokens = {login.result().token for login in [pool.submit(server.log_in) for _ in range(50)]}
        finally:
            over.set()
        watching.result()
    assert len(tokens) == 50


def test_accounts_file(processes: Processes, tmp_path: Path) -> None:
    """The line that `hash` prints is an account's, and programs of one account are not there for another."""
    lines = [
        subprocess.run(
            [sys.executable, "-m", "fair_server", "hash", email],
            input=f"{email}'s own\n",
            capture_output=True,
            text=True,
            check=True,
            cwd=REPOSITORY,
            timeout=DEADLINE_S,
        ).stdout
        for email in ("one@example.com", "two@example.com")
    ]
    assert all(line.count("\n") == 1 and "own" not in line for line in lines)
    (tmp_path / "accounts").write_text("# accounts\n" + "".join(lines))
    server = start_server(processes, tmp_path, "--accounts", tmp_path / "accounts")
    one, two = (server.log_in(email, f"{email}'s own") for email in ("one@example.com", "two@example.com"))
    launched = one.launch("echo")
    assert one.exit_code(launched) == 3
    assert two.request("GET", f"/nodes/gpu/programs/{launched.program_id}/info").status_code == 404
    assert two.request("GET", f"/buckets/{launched.bucket_id}/%23stdout").status_code == 404
    assert two.delete(launched).status_code == 404
    assert two.request("GET", "/nodes/gpu/containers").json() == {"containers": []}
    refused = requests.post(
        f"{server.url}/api/v0/auth/login", json={"email": EMAIL, "password": PASSWORD}, timeout=DEADLINE_S
    )
    assert refused.status_code == 401  # the environment's account is none beside a file


def test_node_rows(client: FairClient, account: Account, place: Place) -> None:
    """Every listing of nodes has the same rows, with the keys of both clients."""
    row = {
        "name": "gpu",
        "id": "node-1",
        "node_id": "node-1",
        "host_address": place.address,
        "gpus": 1,
        "status": "ready",
        "gpu_minutes_today": 0.0,
        "wake_ups_today": 0,
    }
    assert client.cluster().nodes.list()[0] == row
    assert account.request("GET", "/nodes").json()["nodes"][0] == row


def test_clusters(client: FairClient) -> None:
    """The client's cluster commands work: a cluster is made, filled, used and removed; `default` is always there."""
    client.clusters.create("mine", False)
    assert {row["name"] for row in client.clusters.list()} == {"default", "mine"}
    client.cluster("mine").nodes.add("home", "node-1")
    client.cluster("mine").nodes.rename("home", "attic")
    assert [(row["name"], row["id"]) for row in client.cluster("mine").nodes.list()] == [("attic", "node-1")]
    assert client.run("echo", cluster_name="mine", node_name="attic") == 3
    client.cluster("mine").nodes.remove("attic")
    assert client.cluster("mine").nodes.list() == []
    client.clusters.remove("mine")
    assert [row["name"] for row in client.clusters.list()] == ["default"]
    for refused, code in (
        (lambda: client.clusters.remove("default"), "FIXED_CLUSTER"),
        (lambda: client.clusters.create("default", True), "CLUSTER_EXISTS"),
        (lambda: client.clusters.remove("mine"), "NO_SUCH_CLUSTER"),
        (lambda: client.cluster("mine").nodes.list(), "NO_SUCH_CLUSTER"),
    ):
        with pytest.raises(Exception, match=code):  # the client raises nothing more exact
            cast(Callable[[], object], refused)()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/nodes/attic/programs"),
        ("PUT", "/clusters/default/nodes/attic/programs"),
        ("GET", "/nodes/attic/programs/1/info"),
        ("GET", "/nodes/attic/containers"),
        ("DELETE", "/nodes/attic/containers/1"),
    ],
)
def test_unknown_node(account: Account, method: str, path: str) -> None:
    """An unknown node is answered with the nodes that there are."""
    answer = account.request(method, path, json={"commands": commands("echo")})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "NO_SUCH_NODE"
    assert "gpu, tunnel" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image": ""}, "image"),
        ({"runtime": "lxc"}, "runtime"),
        ({"ports": [[{"port": 70000, "ip": "null"}, {"port": 80, "protocol": "Tcp"}]]}, "ports.0.0.port"),
        ({"command": ["a\0b"]}, "command.0"),
        ({"host_config": {"network_mode": "moon"}}, "network_mode"),
        ({"labels": {"role": 3}}, "labels.role"),
    ],
)
def test_bad_program(account: Account, change: dict[str, object], named: str) -> None:
    """A wrong value in a program is refused with a sentence that names its field."""
    wrong = commands("echo")
    wrong[0]["container_desc"].update(change)
    answer = account.put_program(wrong)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "BAD_REQUEST"
    assert named in answer.json()["error"]["message"]


def test_what_another_client_may_send(account: Account) -> None:
    """A key whose value is null is as absent, and the protocol may be spelled in any case."""
    null = commands("echo")
    null[0]["container_desc"].update(dict.fromkeys(("labels", "host_config", "ports", "command", "runtime")))
    lower = commands("sleep", ports=[(free_port(), 8000)])
    lower[0]["container_desc"]["ports"][0][1]["protocol"] = "tcp"
    for taken in (null, lower):
        answer = account.put_program(taken)
        assert answer.ok, answer.text
        account.delete(Launched(**answer.json()))
    lower[0]["container_desc"]["ports"][0][1]["protocol"] = "udp"
    refused = account.put_program(lower)
    assert (refused.status_code, "protocol" in refused.text) == (400, True)


def test_bad_requests(account: Account) -> None:
    """No JSON, commands out of order, an unknown route, method, program or bucket: each a JSON refusal of its own."""
    cases = [
        (account.request("PUT", "/nodes/gpu/programs", data=b"{nonsense"), 400, "BAD_REQUEST"),
        (account.put_program(commands("echo")[::-1]), 400, "BAD_REQUEST"),
        (account.put_program(commands("show", keys=["/app/../../x"])), 400, "BAD_REQUEST"),
        (account.request("PUT", "/nodes/gpu/programs", data=b" " * (2 << 20)), 413, "TOO_LARGE"),
        (account.request("GET", "/no/such/route"), 404, "NO_SUCH_ROUTE"),
        (account.request("DELETE", "/nodes"), 405, "WRONG_METHOD"),
        (account.request("GET", "/nodes/gpu/programs/12/info"), 404, "NO_SUCH_PROGRAM"),
        (account.request("GET", "/nodes/gpu/programs/twelve/info"), 404, "NO_SUCH_PROGRAM"),
        (account.request("GET", "/buckets/12/x"), 404, "NO_SUCH_BUCKET"),
        (account.request("PUT", "/buckets/twelve/x", data=b"y"), 404, "NO_SUCH_BUCKET"),
        (account.request("DELETE", "/nodes/gpu/containers/12"), 404, "NO_SUCH_CONTAINER"),
    ]
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer, _, _ in cases] == [
        (status, code) for _, status, code in cases
    ]


@pytest.mark.processes_only
def test_default_node(processes: Processes) -> None:
    """Without a nodes file there is one node, `local`."""
    program = processes.start(SERVER, env=ACCOUNT)
    server = RunningServer(program.wait_for_line(r"ready on (\S+) \(1 node, process executor\)")[1], program)
    (row,) = server.log_in().request("GET", "/nodes").json()["nodes"]
    assert (row["name"], row["id"], row["host_address"]) == ("local", "local", "127.0.0.1")


def test_old_client(server: RunningServer, faircompute_0_20: Path, tmp_path: Path) -> None:
    """The client of the tutorial, 0.20.1, lists nodes and runs programs, waited for and detached."""
    (tmp_path / "file.txt").write_text("content of a file")
    code = f"""
from fair.client import FairClient
client = FairClient({EMAIL!r}, {PASSWORD!r}, server_address={server.url!r})
assert client.get_nodes()[0]["node_id"] == "node-1"
assert client.run("echo", ["one"], node="node-1") == 3
assert client.run("show", ["/app/f"], volumes=[("file.txt", "/app/f")], node="gpu", network="host") == 0
assert client.run("sleep", node="tunnel", runtime="nvidia", detach=True)["status"] == "Completed"
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(faircompute_0_20)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "out one" in done.stdout
    assert "err" in done.stderr
    assert "content of a file" in done.stdout


def test_new_client(client: FairClient, capsys: pytest.CaptureFixture[str]) -> None:
    """The client of today, 0.22.1, runs programs and prints their output."""
    assert client.run("echo", ["one", "two words"], node_name="gpu") == 3
    printed = capsys.readouterr()
    assert "out one two words" in printed.out
    assert "err" in printed.err
    assert client.run("no-such-image", node_name="gpu") == 125
    assert "no-such-image" in capsys.readouterr().err
    assert client.run("sleep", node_name="tunnel", detach=True) == {"status": "Completed"}
