"""Fair servers that do not answer, or answer something else: the client's error says so, within its deadline."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from errors import FairError
from fair_api.client import DeadlineFairClient
from fair_api.models import ContainerSpec, Program
from fair_api.transport import send
from tests.support.fair_fronts import client_of, logs_in
from tests.support.fair_servers import EMAIL, PASSWORD
from tests.support.hostile_server import Line, Received, hostile_server

PROGRAM = Program("gpu", 1, 2)
SPEC = ContainerSpec("image", files={"/app/x": "text"})
CALLS: dict[str, Callable[[DeadlineFairClient], Any]] = {
    "nodes": lambda fair: fair.nodes(),
    "node": lambda fair: fair.node("gpu"),
    "launch": lambda fair: fair.launch("gpu", SPEC),
    "status": lambda fair: fair.status(PROGRAM),
    "end_of": lambda fair: fair.end_of(PROGRAM),
    "containers": lambda fair: fair.containers("gpu"),
    "delete_container": lambda fair: fair.delete_container("gpu", "c1", timeout_s=0.3),
}


def silent(line: Line, request: Received) -> None:
    line.say_nothing()


@pytest.mark.parametrize("name", CALLS)
def test_never_answers(name: str) -> None:
    """Each request to a server that never answers ends at its deadline."""
    with hostile_server(logs_in(silent)) as server:
        fair = client_of(server.url)
        fair._timeout_s = 0.3  # from now on: the login is answered, on a busy machine later than that
        # Silence that the client did not end would end as a connection that failed.
        with pytest.raises(FairError, match=r"nothing came back within 0\.3 s"):
            CALLS[name](fair)


def test_login_never_answered() -> None:
    """A login, too, has its deadline, and the error says which address was tried and what to check."""
    with hostile_server(silent) as server, pytest.raises(FairError, match="FAIRCOMPUTE_SERVER_ADDRESS") as caught:
        client_of(server.url, timeout_s=0.3)
    assert server.url in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_nobody_listens(closed_port: int) -> None:
    """A Fair that is not there is told as such."""
    with pytest.raises(FairError, match="refused") as caught:
        client_of(f"http://127.0.0.1:{closed_port}")
    assert caught.value.status is None


ODD = ["<html>welcome</html>", "", "[]", "null", "7", "{}", '{"nodes": 7}', '{"nodes": [7]}', "[" * 100_000]


@pytest.mark.parametrize("body", ODD, ids=lambda text: text[:12] or "empty")
@pytest.mark.parametrize("name", ["nodes", "launch", "status", "end_of"])
def test_answers_of_another_shape(name: str, body: str) -> None:
    """Whatever else than Fair's JSON comes back is an error that says so, never a Python error of ours."""

    def script(line: Line, request: Received) -> bool:
        line.answer(200, body)
        return True

    with hostile_server(logs_in(script)) as server, pytest.raises(FairError, match=r"not a Fair server's|nodes are"):
        CALLS[name](client_of(server.url))


@pytest.mark.parametrize("body", ["<html>", "{}", "[]", '"token"', '{"token"'])
def test_logins_of_another_shape(body: str) -> None:
    """A login that gives no token is an error at once."""
    with (
        hostile_server(lambda line, request: line.answer(200, body)) as server,
        pytest.raises(FairError, match="not a Fair server's"),
    ):
        client_of(server.url)


@pytest.mark.parametrize("name", ["launch", "nodes"])
@pytest.mark.parametrize("status", [400, 403, 404, 500, 503])
def test_refusals(name: str, status: int) -> None:
    """A refusal carries its status and the server's own words."""

    def script(line: Line, request: Received) -> None:
        line.answer(status, json.dumps({"error": {"code": "X", "message": "because of this"}}))

    with hostile_server(logs_in(script)) as server, pytest.raises(FairError, match="because of this") as caught:
        CALLS[name](client_of(server.url))
    assert caught.value.status == status


def test_a_token_that_is_never_taken() -> None:
    """A server that refuses every token is asked twice, with one new login between, and then told."""

    def script(line: Line, request: Received) -> bool:
        line.answer(401, "{}")
        return True

    with hostile_server(logs_in(script)) as server:
        fair = client_of(server.url)
        with pytest.raises(FairError) as caught:
            fair.status(PROGRAM)
        assert [request.path.rpartition("/")[2] for request in server.requests] == ["login", "info", "login", "info"]
    assert caught.value.status == 401


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("path", ["/auth/login", "/nodes/list"])
def test_redirects_are_not_followed(path: str, status: int) -> None:
    """Neither the password nor the token goes where a redirect leads; the error names that place."""
    with hostile_server(lambda line, request: line.answer(200, "{}")) as elsewhere:

        def script(line: Line, request: Received) -> bool:
            if request.path.endswith(path):
                line.answer(status, "", Location=f"{elsewhere.url}/there")
                return True
            return bool(logs_in(script)(line, request))

        with (
            hostile_server(script) as server,
            pytest.raises(FairError, match=rf"{status} \(to {elsewhere.url}/there; redirects are not followed"),
        ):
            client_of(server.url).nodes()
        assert elsewhere.requests == []


def test_a_netrc_does_not_replace_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password of ~/.netrc for Fair's host goes nowhere, and our token is sent as it is."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password from-netrc\n")
    monkeypatch.setenv("NETRC", str(netrc))

    def script(line: Line, request: Received) -> None:
        line.answer(200, json.dumps({"nodes": []}))

    with hostile_server(logs_in(script)) as server:
        client_of(server.url).nodes()
    sent = {request.path.rpartition("/")[2]: request.headers.get("authorization") for request in server.requests}
    assert (sent["login"], sent["list"]) == (None, "Bearer t")


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ([{"Ok": {"exit_code": 7}}], 7),
        ([{"Ok": {}}, {"Ok": {"exit_code": 0}}], 0),
        ([{"Ok": None}], None),
        ([{"Err": "no such image"}], None),
        ([], None),
        (None, None),
    ],
)
def test_results(result: Any, told: int | None) -> None:
    """The last entry of a result tells the exit code; an error of Fair's own becomes the last words."""

    def script(line: Line, request: Received) -> None:
        kind = request.path.rpartition("/")[2]
        answers = {"info": {"status": "Completed"}, "result": {"result": result}}
        line.answer(200, json.dumps(answers[kind]) if kind in answers else "")

    with hostile_server(logs_in(script)) as server:
        end = client_of(server.url).end_of(PROGRAM)
    assert end is not None
    assert end.exit_code == told
    assert ("no such image" in end.last_words) == (result == [{"Err": "no such image"}])


def test_container_that_does_not_end() -> None:
    """A container that is still listed as running after a delete is told at the deadline."""

    def script(line: Line, request: Received) -> None:
        row = {"id": "c1", "image": "x", "status": "running", "more": 1}
        line.answer(200, json.dumps({"containers": [row]} if request.method == "GET" else {}))

    def send_patiently(method: str, url: str, **options: Any) -> requests.Response:
        return send(method, url, **{**options, "timeout_s": 60})  # the container is to be late, not the answer

    with hostile_server(logs_in(script)) as server, pytest.raises(FairError, match=r"c1.*still runs"):
        DeadlineFairClient(server.url, EMAIL, PASSWORD, send=send_patiently).delete_container(
            "gpu", "c1", timeout_s=0.3
        )


def test_addresses_of_the_older_listing() -> None:
    """Where the newer listing tells no addresses, the older one is asked; if it fails, they stay unknown."""

    def script(line: Line, request: Received) -> bool:
        if request.path.endswith("/nodes/list"):
            line.answer(200, json.dumps({"nodes": [{"name": "gpu", "id": "n1"}]}))
        elif old_knows:
            line.answer(200, json.dumps({"nodes": [{"node_id": "n1", "host_address": "203.0.113.7"}]}))
        else:
            line.answer(404, "")
        return True

    with hostile_server(logs_in(script)) as server:
        old_knows = True
        assert client_of(server.url).node("gpu").host_address == "203.0.113.7"
        old_knows = False
        assert client_of(server.url).node("n1").host_address is None
