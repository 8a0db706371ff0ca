"""ENDPOINT_TLS=public: a certificate that the authorities vouch for, verified as usual; the bearer goes along."""

import contextlib
import dataclasses
import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from backends.choose import choose_backend
from drawing.models import GenerationRequest
from endpoint.credentials import Credentials
from endpoint_client import EndpointClient
from errors import EndpointUntrustedError, SettingsError
from fair_api.models import Node
from fair_services import ChainSettings, Role, chain_services
from maintenance.console import Console
from maintenance.doctor_places import look_at_endpoint
from settings import Settings
from tests.support.certificates import Authority
from tests.support.endpoint_scripts import PATIENCE_S, good
from tests.support.hostile_server import HostileServer, hostile_server
from tests.support.reconcile_bench import FAIR_SETTINGS

SECRET = "0123456789abcdefghijklmnopqrstuvwxyz-_ABCDEF"
OURS = Credentials.from_secret(SECRET)
PUBLIC = {"ENDPOINT_TLS": "public", "ENDPOINT_SECRET": SECRET}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server(authority: Authority) -> Iterator[HostileServer]:
    """One that the authority vouches for as `localhost`, and as no address."""
    with _server(authority) as server:
        yield server


def _server(
    authority: Authority, host: str = "localhost", days_left: int = 5
) -> "contextlib.AbstractContextManager[HostileServer]":
    key, certificate = authority.certify(host, days_left=days_left)
    return hostile_server(good, dataclasses.replace(OURS, tls_key=key, tls_certificate=certificate))


def by_name(server: HostileServer) -> str:
    return server.url.replace("127.0.0.1", "localhost")


def health(url: str, authority: Authority | None) -> str:
    client = EndpointClient(url, bearer=OURS.bearer, authorities=str(authority.file) if authority else None)
    return client.health(timeout_s=PATIENCE_S).state


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_it_draws(authority: Authority, server: HostileServer, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an authority of the environment's the endpoint is verified by its host name, gets our bearer, and draws."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.setenv(variable, str(authority.file))
    backend = choose_backend(Settings.load(_env_file=None, **PUBLIC, ENDPOINT_URL=by_name(server)))
    backend.ensure(lambda event: None, lambda: False)
    drawn = backend.draw(GenerationRequest("x"), job_id="1", tell=lambda event: None, cancelled=lambda: False)
    assert drawn.seed == 7
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {OURS.bearer}"}


def test_an_unknown_authority(server: HostileServer, authority: Authority) -> None:
    """A certificate that none of the authorities vouches for, or for another name, gets no request and no bearer."""
    with pytest.raises(EndpointUntrustedError, match=r"no authority vouches.*REQUESTS_CA_BUNDLE"):
        health(by_name(server), None)
    with pytest.raises(EndpointUntrustedError, match=r"under that name.*ENDPOINT_URL"):
        health(server.url, authority)  # an address, for which it does not vouch
    assert server.requests == []


def test_one_that_has_run_out(authority: Authority) -> None:
    """A certificate that has run out is not trusted, and the error says that it has."""
    with _server(authority, days_left=-1) as server, pytest.raises(EndpointUntrustedError, match="expired"):
        health(by_name(server), authority)


def test_the_doctor(authority: Authority, server: HostileServer) -> None:
    """It walks such an endpoint: a row for the certificate, one for the server; what is wrong is told by its row."""

    def rows(authorities: Path | None) -> dict[str, str]:
        named = {"REQUESTS_CA_BUNDLE": str(authorities)} if authorities else {}
        settings = Settings.load(_env_file=None, **PUBLIC, **named, ENDPOINT_URL=by_name(server))
        console, told = Console(as_json=True), io.StringIO()
        with redirect_stdout(told):
            look_at_endpoint(console, settings, from_space=False)
        return {row["check"]: row["status"] for row in map(json.loads, told.getvalue().splitlines())}

    assert rows(authority.file) == {"certificate": "ok", "endpoint": "ok"}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        patch.delenv("SSL_CERT_FILE", raising=False)
        assert rows(None) == {"certificate": "failed"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ENDPOINT_URL": "http://gpu.example.org"}, "plain http.*ENDPOINT_TLS=public: use https"),
        ({"ENDPOINT_URL": "https://gpu.example.org", "ENDPOINT_SECRET": ""}, "ENDPOINT_SECRET is required"),
        (
            {"ENDPOINT_URL": "https://gpu.example.org", "REQUESTS_CA_BUNDLE": "/nowhere"},
            "REQUESTS_CA_BUNDLE.*not there",
        ),
        ({}, "through Fair or at ENDPOINT_URL"),
        ({**FAIR_SETTINGS, "ENDPOINT_TLS": "pinned", "ENDPOINT_TLS_PORT": "443"}, "goes with ENDPOINT_TLS=public"),
    ],
)
def test_what_does_not_go_together(changes: dict[str, str], named: str) -> None:
    """What would send a bearer in plain text, or has no effect, is refused at start."""
    with pytest.raises(SettingsError, match=named):
        Settings.load(_env_file=None, **{**PUBLIC, **changes})


def test_behind_what_ends_tls_on_the_box() -> None:
    """The inference server gets the bearer and no key; the tunnel leads to the port where TLS ends, if there is one."""
    node, vm = Node("home", "n1", None), Node("vm", "n2", "gpu.example.org")
    chain = ChainSettings("home", "image", "me/space", tunnel_node="vm", tls="public")

    def services(chain: ChainSettings) -> tuple[dict[str, object], str]:
        made = chain_services(chain, OURS, node, vm, "gpu.example.org")
        (config,) = made[Role.INFERENCE].spec.files.values()
        (client,) = made[Role.TUNNEL_CLIENT].spec.files.values()
        return json.loads(config), client

    config, client = services(chain)
    assert config["bearer"] == OURS.bearer
    assert not {"tls_key", "tls_certificate"} & config.keys()
    assert 'local_addr = "127.0.0.1:5001"' in client
    assert 'local_addr = "127.0.0.1:5443"' in services(dataclasses.replace(chain, tls_port=5443))[1]
