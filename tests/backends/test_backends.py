"""The places that draw: which one the settings choose, and a fixed endpoint through good and bad days."""

import json
import logging
import socket
import threading
import time
from collections.abc import Callable

import pytest

import fair_services
from backends.base import Backend
from backends.choose import choose_backend
from backends.fair_chain import FairChain
from backends.fixed_endpoint import FixedEndpoint
from backends.start import Timing
from drawing.events import Event, Waking
from drawing.models import GenerationRequest
from endpoint.credentials import Credentials
from endpoint.wire_format import Health
from endpoint_client import EndpointClient
from errors import EndpointUnreachableError, EndpointUntrustedError, FairError, GpuBusyError, SettingsError, StartError
from fair_api.models import Node
from fair_services import ChainSettings
from settings import Settings
from tests.support.endpoint_scripts import HEALTH, PATIENCE_S, good
from tests.support.hostile_server import Line, Received, hostile_server
from tests.support.processes import free_port, wait_until
from tests.support.reconcile_bench import FAIR_SETTINGS

SECRET = "Vb3-uTq0xJ8s_kLmZ7yRnP5wHcE2aQdG9fXo1iUeYt4"


def chosen(**values: str) -> Backend:
    return choose_backend(Settings.load(_env_file=None, **values))


def never() -> bool:
    return False


def ignore(event: Event) -> None:
    """Tells nobody."""


def test_the_choice() -> None:
    """A fixed endpoint, a Fair that is configured, or this machine alone; choosing starts nothing."""
    fixed = chosen(ENDPOINT_URL="http://127.0.0.1:9")
    assert isinstance(fixed, FixedEndpoint)
    assert (fixed.status().kind, fixed.status().ready) == ("endpoint", False)
    fair = chosen(**FAIR_SETTINGS, ENDPOINT_SECRET=SECRET)
    assert isinstance(fair, FairChain)
    assert (fair.status().kind, fair.status().demo, fair.status().tunnel) == ("fair", False, True)
    assert not chosen(**FAIR_SETTINGS, ENDPOINT_SECRET=SECRET, TUNNEL="none").status().tunnel
    local = chosen(TUNNEL="none")
    assert (local.status().kind, local.status().demo, local.status().tunnel) == ("local", True, False)
    assert not chosen(TUNNEL="none", MODEL_ID="/models/x").status().demo
    local.close()


def test_no_tls_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """ENDPOINT_TLS=none says in the log what it means."""
    with caplog.at_level(logging.WARNING):
        chosen(ENDPOINT_URL="http://gpu.example.org", ENDPOINT_TLS="none")
    assert "ENDPOINT_TLS=none" in caplog.text


@pytest.mark.parametrize(
    ("address", "warned"),
    [
        ("http://192.168.1.7:8000", True),
        ("http://127.0.0.1:8000", False),
        ("https://fair.example.org", False),
    ],
)
def test_a_fair_that_can_be_read_is_warned_of(address: str, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A Fair on another machine over plain http is said once to be readable, secrets included, and is not refused."""
    with caplog.at_level(logging.WARNING):
        chosen(**FAIR_SETTINGS, ENDPOINT_SECRET=SECRET, FAIRCOMPUTE_SERVER_ADDRESS=address)
    warnings = [record.getMessage() for record in caplog.records if record.name == "backends.choose"]
    assert len(warnings) == warned
    assert all("private TLS key" in text for text in warnings)
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({**FAIR_SETTINGS, "ENDPOINT_TLS": "none", "MODEL_ID": "x", "IDLE_EXIT_S": "0"}, ["MODEL_ID", "IDLE_EXIT_S"]),
        ({"ENDPOINT_URL": "http://127.0.0.1:9", "INFERENCE_ENGINE": "diffusers"}, ["INFERENCE_ENGINE"]),
        ({**FAIR_SETTINGS, "ENDPOINT_TLS": "none"}, []),
        ({**FAIR_SETTINGS, "MODEL_ID": "x", "IDLE_ENGINE_S": "5"}, []),
        ({"MODEL_ID": "x", "IDLE_ENGINE_S": "5", "ENDPOINT_TLS": "none", "TUNNEL": "none"}, []),
    ],
)
def test_settings_without_effect(
    environment: dict[str, str], named: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Settings that reach no inference server are named in one warning, which says why; those that do are in none."""
    with caplog.at_level(logging.WARNING):
        chosen(**environment, ENDPOINT_SECRET=SECRET).close()
    told = [record.getMessage() for record in caplog.records if "without effect" in record.getMessage()]
    assert len(told) == bool(named)
    for name in ("MODEL_ID", "IDLE_EXIT_S", "IDLE_ENGINE_S", "INFERENCE_ENGINE"):
        assert (name in " ".join(told)) == (name in named)


def test_the_secret_and_its_pin() -> None:
    """A fixed endpoint over https is pinned by the secret, and gets its bearer."""
    credentials = Credentials.from_secret(SECRET)
    with hostile_server(good, credentials) as server:
        backend = chosen(ENDPOINT_URL=server.url, ENDPOINT_SECRET=SECRET)
        backend.ensure(ignore, never)
        assert server.requests[0].headers["authorization"] == f"Bearer {credentials.bearer}"
        with pytest.raises(EndpointUntrustedError):
            chosen(ENDPOINT_URL=server.url, ENDPOINT_SECRET=SECRET + "x").ensure(ignore, never)


def test_a_fixed_endpoint_draws() -> None:
    """It is asked for its health once, then draws; its limits are known from then on."""
    with hostile_server(good) as server:
        backend = chosen(ENDPOINT_URL=server.url)
        assert backend.status().limits.width.max == 2048
        for _ in range(2):
            backend.ensure(ignore, never)
            assert backend.draw(GenerationRequest("x"), job_id="1", tell=ignore, cancelled=never).seed == 7
        assert [request.method for request in server.requests] == ["GET", "POST", "POST"]
    assert backend.status().ready
    assert backend.status().limits.width.max == 256


def test_after_a_failure_it_is_not_ready() -> None:
    """A drawing that finds nobody makes the backend look again before the next one."""
    with hostile_server(good) as server:
        backend = chosen(ENDPOINT_URL=server.url)
        backend.ensure(ignore, never)
    with pytest.raises(EndpointUnreachableError):
        backend.draw(GenerationRequest("x"), job_id="1", tell=ignore, cancelled=never)
    assert not backend.status().ready


def states(*told: str) -> Callable[[Line, Received], bool]:
    """Answers healthchecks with one state after the other, the last one from then on."""
    left = list(told)

    def script(line: Line, request: Received) -> bool:
        line.answer(
            200, json.dumps({**HEALTH, "state": left.pop(0) if len(left) > 1 else left[0], "reason": "no unet"})
        )
        return True

    return script


def test_it_waits_while_the_model_loads() -> None:
    """A server that loads its model is waited for, and that is told."""
    told: list[Event] = []
    with hostile_server(states("loading", "loading", "healthy")) as server:
        chosen(ENDPOINT_URL=server.url).ensure(told.append, never)
    assert "Loading the model" in str(told)


def test_a_download_takes_as_long_as_it_takes() -> None:
    """A server that downloads its model is waited for beyond the deadline, and how far it is reaches the visitor."""
    told: list[Event] = []
    gigabytes = iter(range(6))

    def script(line: Line, request: Received) -> bool:
        here = next(gigabytes, None)
        loading = {"state": "loading", "stage": f"Downloading the model: {here}.0 of 6.0 GB"}
        line.answer(200, json.dumps({**HEALTH, **(loading if here is not None else {})}))
        return True

    begun = time.monotonic()
    with hostile_server(script) as server:
        FixedEndpoint(EndpointClient(server.url), timeout_s=0.5).ensure(told.append, never)
    assert time.monotonic() - begun > 1
    assert Waking("Downloading the model: 5.0 of 6.0 GB") in told


@pytest.mark.parametrize(("state", "message"), [("failed", "no unet"), ("loading", "still loading")])
def test_a_model_that_does_not_load(state: str, message: str) -> None:
    """A model that failed, or loads for ever, is told with what the server says."""
    with hostile_server(states(state)) as server, pytest.raises(StartError, match=message) as caught:
        FixedEndpoint(EndpointClient(server.url), timeout_s=0.5).ensure(ignore, never)
    assert ("within 0.5 s" in caught.value.tried) == (state == "loading")  # a failed one is not waited for


def test_a_busy_gpu_is_told_kindly_and_asked_again() -> None:
    """While the GPU's owner uses it each drawing says so at once; once it is free the next one is drawn."""
    busy = [True]

    def script(line: Line, request: Received) -> bool:
        if not busy[0]:
            return good(line, request)
        if request.path == "/healthcheck":
            line.answer(
                200, json.dumps({**HEALTH, "state": "failed", "limits": {}, "reason": "gpu-busy: 1 GiB is free"})
            )
        else:
            line.answer(503, json.dumps({"$error": {"code": "GPU_BUSY", "message": "Somebody else"}}))
        return True

    with hostile_server(script) as server:
        backend = chosen(ENDPOINT_URL=server.url)
        for _ in range(2):
            backend.ensure(ignore, never)
            with pytest.raises(GpuBusyError, match="busy with something else of its owner's"):
                backend.draw(GenerationRequest("x"), job_id="1", tell=ignore, cancelled=never)
            assert not backend.status().ready
        busy[0] = False
        backend.ensure(ignore, never)
        assert backend.draw(GenerationRequest("x"), job_id="2", tell=ignore, cancelled=never).seed == 7
    assert backend.status().ready
    assert backend.status().limits.width.max == 256


def test_nobody_there(closed_port: int) -> None:
    """Nobody at the address is told after `refused_s`, or after the whole deadline if that is shorter."""
    endpoint = EndpointClient(f"http://127.0.0.1:{closed_port}")
    for timeout_s, refused_s in ((20.0, 0.1), (0.1, 20.0)):
        with pytest.raises(EndpointUnreachableError, match="nobody listens") as caught:
            FixedEndpoint(endpoint, timeout_s=timeout_s, refused_s=refused_s).ensure(ignore, never)
        assert "tunnel" not in str(caught.value)  # there is none


def test_fifty_ask_once() -> None:
    """Fifty who ask at once cause one healthcheck, not fifty."""
    all_wait = threading.Event()

    class GatedClient(EndpointClient):
        """Asks once all are there: a question under way would be given up after 3 s."""

        def health(self, *, timeout_s: float = 3.0) -> Health:
            all_wait.wait(PATIENCE_S)
            return super().health(timeout_s=PATIENCE_S)

    with hostile_server(good) as server:
        backend = FixedEndpoint(GatedClient(server.url), timeout_s=PATIENCE_S)
        told: list[Event] = []
        threads = [threading.Thread(target=backend.ensure, args=(told.append, never)) for _ in range(50)]
        for thread in threads:
            thread.start()
        wait_until("all to wait", lambda: len(told) == 50)
        all_wait.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert len(server.requests) == 1
    assert backend.status().ready


class OneFair:
    """Stands in for the Fair client: two nodes with the addresses given."""

    def __init__(self, **addresses: str | None) -> None:
        self._addresses = addresses

    def node(self, name: str) -> Node:
        return Node(name, name, self._addresses[name])


@pytest.mark.parametrize(
    ("home", "vm"), [("203.0.113.7", "127.0.0.1"), ("127.0.0.1", "203.0.113.7"), (None, "vm.example.org")]
)
def test_a_secret_is_required_for_other_machines(home: str | None, vm: str) -> None:
    """A Fair on this machine whose nodes are others needs ENDPOINT_SECRET, which no run can make up for itself."""
    backend = chosen(**FAIR_SETTINGS, FAIRCOMPUTE_SERVER_ADDRESS="http://127.0.0.1:9")
    assert isinstance(backend, FairChain)
    backend._connect = lambda: OneFair(home=home, vm=vm)  # type: ignore[assignment,return-value]
    with pytest.raises(SettingsError, match=r"another machine.*ENDPOINT_SECRET.*secrets\.token_urlsafe"):
        backend.ensure(ignore, never)


@pytest.mark.parametrize(
    ("given", "told"), [("vm.exmaple.org", "Check TUNNEL_ADDRESS"), (None, "Fair tells of node vm.*TUNNEL_ADDRESS")]
)
def test_a_name_that_nobody_knows(given: str | None, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo in the tunnel's address is told with the name and where it comes from, and nothing is started.

    The start's deadline, longer than a test may take, is not waited for.
    """

    def unknown(*args: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    chain = ChainSettings("home", "image", "me/space", tunnel_node="vm", tunnel_address=given)
    fair = OneFair(home="203.0.113.7", vm="vm.exmaple.org")
    timing = Timing(name_s=0.2)
    backend = FairChain(chain, lambda: fair, secret=SECRET, kind="fair", timing=timing)  # type: ignore[arg-type,return-value]
    with pytest.raises(StartError, match=rf"the name vm\.exmaple\.org.*{told}"):
        backend.ensure(ignore, never)


def test_ports_are_chosen_once_fair_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's own Fair server listens before the chain's ports are looked for: it cannot take one of them."""
    happened: list[str] = []

    def connect() -> OneFair:
        happened.append("Fair listens")
        return OneFair(local=None)

    def ports(count: int) -> list[int]:
        happened.append("ports are chosen")
        return [free_port() for _ in range(count)]

    monkeypatch.setattr(fair_services, "free_ports", ports)
    backend = chosen(TUNNEL="none")
    assert isinstance(backend, FairChain)
    backend._connect = connect  # type: ignore[assignment]
    with pytest.raises(FairError, match="learn the address"):
        backend.ensure(ignore, never)
    assert happened == ["Fair listens", "ports are chosen"]
    backend.close()
