"""Fair stumbles once, somewhere in a start: the start goes on, and nothing runs twice or waits for ever."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
import requests

from backends.fair_chain import FairChain
from backends.start import Timing
from drawing.events import Event, Waking
from errors import FairError
from fair_api.client import DeadlineFairClient
from fair_api.models import ContainerSpec
from fair_api.transport import send
from fair_services import ChainSettings, Role
from settings import InferenceConfig
from tests.support.fair_servers import DEADLINE_S, EMAIL, PASSWORD
from tests.support.hostile_server import HostileServer, Line, Received, hostile_server
from tests.support.reconcile_bench import QUICK, SECRET, Bench, chain_settings, running_bench

pytestmark = pytest.mark.slow
Stumble = Literal["away", "lost", "502"]  # it never hears of it, its answer is lost, a proxy in front of it answers


@contextmanager
def stumbling_fair(url: str, stumble: Callable[[Received], Stumble | None]) -> Iterator[HostileServer]:
    """A front for the Fair server at `url` that stumbles where it is told to."""

    def script(line: Line, request: Received) -> bool:
        how = stumble(request)
        if how == "502":
            line.answer(502, "<html>nobody behind me</html>")
        if how in ("502", "away"):
            return how == "502"
        names = ("authorization", "content-type")
        headers = {name: value for name, value in request.headers.items() if name in names}
        answer = requests.request(
            request.method, url + request.path, headers=headers, data=request.body, timeout=DEADLINE_S
        )
        if how is None:
            line.answer(answer.status_code, answer.content)
        return how is None

    with hostile_server(script) as server:
        yield server


def once(how: Stumble, method: str, part: str) -> Callable[[Received], Stumble | None]:
    """Stumbles over the first request of that method with that in its path."""
    over: list[Received] = []

    def stumble(request: Received) -> Stumble | None:
        if over or request.method != method or part not in request.path:
            return None
        over.append(request)
        return how

    return stumble


def backend_at(url: str, chain: ChainSettings, timing: Timing = QUICK) -> FairChain:
    return FairChain(
        chain,
        lambda: DeadlineFairClient(url, EMAIL, PASSWORD, timeout_s=DEADLINE_S),
        secret=SECRET,
        kind="fair",
        timing=timing,
    )


def get_ready(backend: FairChain, tell: Callable[[Event], None] = lambda event: None) -> None:
    backend.ensure(tell, lambda: False)
    assert backend.status().ready


def alive(bench: Bench) -> list[str | None]:
    """The roles that run, with all of each."""
    return [row.role for row in bench.client().containers("home") or [] if row.alive]


@pytest.mark.parametrize("how", ["away", "502"])
@pytest.mark.parametrize(
    ("method", "part"),
    [("POST", "/auth/login"), ("POST", "/nodes/list"), ("GET", "/containers"), ("PUT", "/programs")],
)
def test_a_cold_start(how: Stumble, method: str, part: str, bench: Bench) -> None:
    """One fault at the login, at the look for nodes, at the first survey or at the launch fails nobody's start."""
    with stumbling_fair(bench.url, once(how, method, part)) as front:
        get_ready(backend_at(front.url, chain_settings(tunnel_node=None)))
    assert bench.log.starts() == {"inference": 1}
    assert alive(bench) == ["inference"]


@pytest.mark.parametrize("how", ["away", "lost", "502"])
def test_the_end_of_what_is_replaced(how: Stumble, bench: Bench) -> None:
    """A fault while a container of an older configuration is ended: it is ended all the same, and replaced."""
    chain = chain_settings(tunnel_node=None)
    bench.reconcile(chain)
    with stumbling_fair(bench.url, once(how, "DELETE", "/containers/")) as front:
        get_ready(backend_at(front.url, replace(chain, inference=InferenceConfig(model_id="another/model"))))
    assert bench.log.starts() == {"inference": 2}
    assert alive(bench) == ["inference"]


@pytest.mark.parametrize("how", ["away", "lost", "502"])
@pytest.mark.parametrize("part", ["%2Fapp%2Fendpoint.json", "%2Fapp%2Fendpoint.json/eof", "%23stdin/eof"])
def test_the_files_of_a_launch(how: Stumble, part: str, bench: Bench) -> None:
    """A program that may not have got its files is ended and launched again: its configuration is neither doubled nor
    waited for."""
    stumble = once(how, "PUT", part)
    with stumbling_fair(bench.url, lambda one: stumble(one) if one.path.endswith(part) else None) as front:
        get_ready(backend_at(front.url, chain_settings(tunnel_node=None)))
        assert [request.method for request in front.requests].count("DELETE") == 1
        assert sum(request.path.endswith("/programs") for request in front.requests) == 2
    assert alive(bench) == ["inference"]


def test_a_program_that_its_node_is_to_take(bench: Bench) -> None:
    """A fault just when a node's time to take a program is over is still a fault of Fair, not of that node."""
    faults = iter(range(10))

    def stumble(request: Received) -> Stumble | None:
        return "502" if request.path.endswith("/info") and next(faults, None) is not None else None

    with stumbling_fair(bench.url, stumble) as front:
        get_ready(backend_at(front.url, chain_settings(tunnel_node=None), replace(QUICK, schedule_s=0.1)))
        assert sum(request.path.endswith("/programs") for request in front.requests) == 1
    assert next(faults, 10) > 0  # a slow machine has time for one question only


def test_all_three_at_once(bench: Bench) -> None:
    """Where one of three services that start side by side loses its files, that one is started again."""
    part = "%2Fapp%2Fconfig.toml"
    with stumbling_fair(bench.url, once("away", "PUT", part)) as front:
        get_ready(backend_at(front.url, chain_settings()))
        assert sum(request.path.endswith("/programs") for request in front.requests) == 4
    assert set(bench.alive()) == {str(role) for role in Role}


def test_a_launch_whose_answer_is_lost(bench: Bench) -> None:
    """A program that nobody knows to have put is seen in the list; once it is over another one is started."""
    chain = chain_settings(tunnel_node=None)
    launch_lost, looks = once("lost", "PUT", "/programs"), list[Received]()

    def stumble(request: Received) -> Stumble | None:
        if request.method == "GET" and request.path.endswith("/containers"):
            looks.append(request)
            if len(looks) == 4:  # the third one has seen it; the server itself ends it after half a minute
                bench.end(Role.INFERENCE)
        return launch_lost(request)

    with stumbling_fair(bench.url, stumble) as front:
        get_ready(backend_at(front.url, chain))
        assert sum(request.path.endswith("/programs") for request in front.requests) == 2
    assert bench.log.starts() == {"inference": 1}
    assert alive(bench) == ["inference"]


def test_a_space_that_was_killed_while_it_put_the_files(tmp_path: Path) -> None:
    """The next start waits for what is about to run, but gets over it within its own deadline when nothing comes."""
    chain = chain_settings(tunnel_node=None)

    def killed(method: str, url: str, **options: Any) -> requests.Response:
        if "/buckets/" in url:
            raise SystemExit
        return send(method, url, **options)

    with running_bench(tmp_path, "--upload-wait-s", "6") as bench:
        fair = DeadlineFairClient(bench.url, EMAIL, PASSWORD, send=killed)
        with pytest.raises(SystemExit):
            fair.launch("home", bench.services(chain)[Role.INFERENCE].spec)
        assert [row.status for row in bench.alive().values()] == ["starting"]
        get_ready(backend_at(bench.url, chain, replace(QUICK, silence_s=2)))
        assert bench.log.starts() == {"inference": 1}
        assert alive(bench) == ["inference"]


def test_a_launch_that_always_fails(bench: Bench) -> None:
    """A Fair that refuses every launch with a fault of its own is told after a few tries, not tried for ever."""
    with stumbling_fair(bench.url, lambda one: "502" if one.path.endswith("/programs") else None) as front:
        with pytest.raises(FairError, match="502"):
            get_ready(backend_at(front.url, chain_settings(tunnel_node=None)))
        assert sum(request.path.endswith("/programs") for request in front.requests) == 3


@pytest.mark.parametrize("part", ["/programs", "%2Fapp%2Fendpoint.json"])
@pytest.mark.parametrize("how", ["away", "lost", "502"])
def test_a_launch_at_a_fair_that_cannot_list(how: Stumble, part: str, bench: Bench, unlisted: HostileServer) -> None:
    """Where nobody can tell what has become of a launch it is not repeated: it could double the tunnel's client."""
    with stumbling_fair(unlisted.url, once(how, "PUT", part)) as front:
        with pytest.raises(FairError, match=f"PUT .*{part}"):
            get_ready(backend_at(front.url, chain_settings(tunnel_node=None)))
        assert sum(request.path.endswith("/programs") for request in front.requests) == 1


@pytest.mark.parametrize(("part", "launches"), [("/programs", 2), (".json", 1)])
def test_a_launch_that_was_refused_a_connection(
    part: str, launches: int, bench: Bench, unlisted: HostileServer, closed_port: int
) -> None:
    """What has surely not reached Fair is repeated there as well, unless it is a file of a program that has."""
    refused: list[FairError] = []
    tried: list[str] = []

    def send_to_nobody_once(method: str, url: str, **options: Any) -> requests.Response:
        if url.endswith("/programs"):
            tried.append(url)
        if refused or method != "put" or not url.endswith(part):
            return send(method, url, **options)
        try:
            return send(method, url.replace(f":{urlsplit(url).port}/", f":{closed_port}/"), **options)
        except FairError as error:
            refused.append(error)
            raise

    chain = chain_settings(tunnel_node=None)
    fair = DeadlineFairClient(unlisted.url, EMAIL, PASSWORD, timeout_s=DEADLINE_S, send=send_to_nobody_once)
    backend = FairChain(chain, lambda: fair, secret=SECRET, kind="fair", timing=QUICK)
    if launches == 2:
        get_ready(backend)
    else:
        with pytest.raises(FairError, match="refused"):
            get_ready(backend)
    assert len(tried) == launches
    assert refused


def test_a_fair_that_stays_away(bench: Bench) -> None:
    """Fair is waited for no longer than the start may take; what is waited for is told, and the fault is the error."""
    told: list[Event] = []
    with stumbling_fair(bench.url, lambda one: "502" if one.path.endswith("/nodes/list") else None) as front:
        backend = backend_at(front.url, chain_settings(tunnel_node=None), replace(QUICK, timeout_s=3))
        with pytest.raises(FairError, match="502"):
            get_ready(backend, told.append)
        assert sum(request.path.endswith("/nodes/list") for request in front.requests) > 1
    assert Waking("What wakes the machine that draws does not answer just now: asking again") in told


def test_a_refusal_is_told_at_once(bench: Bench) -> None:
    """What Fair will refuse again is not asked again: a wrong password, a node that is not there."""
    with stumbling_fair(bench.url, lambda one: None) as front:
        with pytest.raises(FairError, match="401"):
            FairChain(
                chain_settings(tunnel_node=None),
                lambda: DeadlineFairClient(front.url, EMAIL, "wrong", timeout_s=DEADLINE_S),
                secret=SECRET,
                kind="fair",
                timing=QUICK,
            ).ensure(lambda event: None, lambda: False)
        with pytest.raises(FairError, match="'mars'"):
            get_ready(backend_at(front.url, chain_settings(tunnel_node=None, inference_node="mars")))
        asked = [request.path.rpartition("/api/v0")[2] for request in front.requests]
        assert asked == ["/auth/login", "/auth/login", "/clusters/default/nodes/list"]


@pytest.mark.parametrize("how", ["away", "lost", "502"])
def test_what_a_lost_launch_leaves(how: Stumble, bench: Bench) -> None:
    """The client itself leaves no program behind that waits for files; its error says what was tried."""
    part = "%2Fapp%2Fx"
    with stumbling_fair(bench.url, once(how, "PUT", part)) as front:
        fair = bench.client(front.url)
        with pytest.raises(FairError, match=f"PUT .*{part}"):
            fair.launch("home", ContainerSpec("inference", files={"/app/x": "{}"}))
    assert alive(bench) == []
