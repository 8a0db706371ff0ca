"""The tunnel: who may offer a service through it, who may draw through it, and what can be read on the way."""

import hashlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from endpoint.credentials import Credentials
from fair_api.models import Node
from fair_services import ChainSettings, Role, Service, chain_services
from tests.support.chain import (
    DEPLOYMENT,
    GPU_NODE,
    INFERENCE_IMAGE,
    SECRET,
    TUNNEL_NODE,
    Chain,
    draw,
    running_chain,
    service_of,
)
from tests.support.processes import Processes, Program, free_port, is_open, wait_until
from tests.support.wiretap import wiretap

pytestmark = pytest.mark.slow

OTHER_SECRET = "another secret of tests, long enough: 0123456789"
REFUSED = "Authentication failed"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, rathole: Path) -> Iterator[Chain]:
    """A chain that has just drawn."""
    with running_chain(tmp_path_factory.mktemp("chain"), rathole) as chain, chain.service() as service:
        draw(service)
        yield chain


def tunnel_of(secret: str, *, control_port: int, public_port: int, inference_port: int) -> dict[Role, Service]:
    """The services that a Space with this secret would start."""
    settings = ChainSettings(
        inference_node=GPU_NODE,
        inference_image=INFERENCE_IMAGE,
        deployment=DEPLOYMENT,
        tunnel_node=TUNNEL_NODE,
        inference_host_port=inference_port,
        tunnel_control_port=control_port,
        tunnel_public_port=public_port,
    )
    gpu, tunnel = (Node(name, name, "127.0.0.1") for name in (GPU_NODE, TUNNEL_NODE))
    return chain_services(settings, Credentials.from_secret(secret), gpu, tunnel, "127.0.0.1")


def run(processes: Processes, rathole: Path, service: Service, folder: Path) -> Program:
    """Runs an end of the tunnel with the configuration that its container would get."""
    mode, path = service.spec.command
    file = folder / f"{service.fingerprint}.toml"
    file.write_text(service.spec.files[path])
    return processes.start([rathole, mode, file], {"RUST_LOG": None, "NO_COLOR": "1"})


def test_wrong_token_opens_nothing(processes: Processes, tmp_path: Path, rathole: Path) -> None:
    """A tunnel client with another secret's token is refused, and the public port stays closed until ours comes."""
    control, public, inference = free_port(), free_port(), free_port()
    ours, others = (
        tunnel_of(secret, control_port=control, public_port=public, inference_port=inference)
        for secret in (SECRET, OTHER_SECRET)
    )
    run(processes, rathole, ours[Role.TUNNEL_SERVER], tmp_path)
    wait_until("the control port to open", lambda: is_open(control))
    intruder = run(processes, rathole, others[Role.TUNNEL_CLIENT], tmp_path)
    intruder.wait_for_line(REFUSED)
    assert not is_open(public)
    run(processes, rathole, ours[Role.TUNNEL_CLIENT], tmp_path)
    wait_until("the public port to open", lambda: is_open(public))


def test_wrong_token_displaces_nobody(processes: Processes, tmp_path: Path, rathole: Path, chain: Chain) -> None:
    """Such a client at the control port of a running chain takes nothing over: the next prompt draws as before."""
    before = chain.containers()
    others = tunnel_of(
        OTHER_SECRET, control_port=chain.control_port, public_port=chain.public_port, inference_port=free_port()
    )
    run(processes, rathole, others[Role.TUNNEL_CLIENT], tmp_path).wait_for_line(REFUSED)
    with chain.service() as service:
        draw(service)
    assert chain.containers() == before


def test_public_port_is_open_to_strangers_for_their_state_only(chain: Chain) -> None:
    """Through the tunnel a stranger learns the state alone, and draws nothing: no bearer or a wrong one is a 401."""
    url = f"https://127.0.0.1:{chain.public_port}"
    body = {"modelInputs": {"prompt": "a red apple"}}
    bearers: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {Credentials.from_secret(OTHER_SECRET).bearer}"},
    ]
    with requests.Session() as stranger:
        stranger.trust_env = False
        for headers in bearers:
            refused = stranger.post(url, json=body, headers=headers, verify=False, timeout=60)
            assert refused.status_code == 401
            assert "image_base64" not in refused.text
        assert set(stranger.get(f"{url}/healthcheck", verify=False, timeout=60).json()) == {"state", "gpu"}


def test_certificate_is_the_derived_one(chain: Chain) -> None:
    """What the public port shows is the certificate derived from the secret: TLS ends at the inference server."""
    shown = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", chain.public_port), timeout=60))
    assert hashlib.sha256(shown).hexdigest() == Credentials.from_secret(SECRET).certificate_sha256


def test_nothing_is_read_on_the_way(chain: Chain) -> None:
    """Who listens at the public port reads neither prompt nor bearer nor picture."""
    credentials = Credentials.from_secret(SECRET)
    with wiretap(chain.public_port) as tap:
        settings = {"ENDPOINT_URL": f"https://127.0.0.1:{tap.port}", "ENDPOINT_SECRET": SECRET}
        with service_of(settings) as service:
            drawing = draw(service, "a zebra that whistles")
        heard = tap.heard
    assert len(heard) > len(drawing.encoded)  # it did come this way
    for secret in (b"zebra", b"modelInputs", b"image_base64", b"Bearer", credentials.bearer.encode(), b"HTTP/1.1"):
        assert secret not in heard
