"""Whom the endpoint's client trusts: the pinned certificate and nobody else, whatever the environment says."""

import socket
import threading

import pytest

from drawing.models import GeneratedImage, GenerationRequest
from endpoint.credentials import Credentials
from endpoint_client import EndpointClient
from errors import EndpointUnreachableError, EndpointUntrustedError
from tests.support.endpoint_scripts import PATIENCE_S, good
from tests.support.hostile_server import Line, Received, hostile_server

OURS = Credentials.from_secret("0123456789abcdefghijklmnopqrstuvwxyz-_ABCDEF")
OTHERS = Credentials.from_secret("another-0123456789abcdefghijklmnopqrstuvwxyz")


def closed(line: Line, request: Received) -> None:
    """Accepts and closes."""


def draw(client: EndpointClient) -> GeneratedImage:
    return client.infer(GenerationRequest("x"), request_id="id-1", tell=lambda event: None)


def test_wrong_pin() -> None:
    """Another certificate than the pinned one: no request reaches that server, and nothing is repeated."""
    with hostile_server(good, OTHERS) as server:
        client = EndpointClient(server.url, bearer=OURS.bearer, certificate_sha256=OURS.certificate_sha256)
        for call in (client.health, lambda: draw(client)):
            with pytest.raises(EndpointUntrustedError):
                call()
        assert server.requests == []


def test_plain_http_where_tls_is_expected() -> None:
    """A server that speaks plain HTTP where TLS is expected is not trusted, and reads no bearer."""
    with hostile_server(good) as server:
        url = server.url.replace("http:", "https:")
        with pytest.raises(EndpointUntrustedError):
            EndpointClient(url, bearer=OURS.bearer, certificate_sha256=OURS.certificate_sha256).health(
                timeout_s=PATIENCE_S
            )
        assert not any(OURS.bearer in str(request) for request in server.requests)


def test_closed_during_the_handshake() -> None:
    """A tunnel whose service is down accepts and closes: that is `closed`, not somebody else's certificate."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True).start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(EndpointUnreachableError) as caught:
            EndpointClient(url, certificate_sha256=OURS.certificate_sha256).health(timeout_s=PATIENCE_S)
    assert caught.value.how == "closed"


def test_silent_during_the_handshake() -> None:
    """A frozen server behind TLS is `silent`: the kernel accepts for it, and no handshake comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(EndpointUnreachableError) as caught:
            EndpointClient(url, certificate_sha256=OURS.certificate_sha256).health(timeout_s=0.3)
    assert caught.value.how == "silent"


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "HTTPS_PROXY", "ALL_PROXY"])
def test_environment_changes_nothing(name: str, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a bundle of authorities nor a proxy of the environment comes between the client and its pin."""
    value = f"http://127.0.0.1:{closed_port}" if "PROXY" in name else "/etc/ssl/certs/ca-certificates.crt"
    monkeypatch.setenv(name, value)
    with hostile_server(good, OURS) as server:
        assert (
            EndpointClient(server.url, certificate_sha256=OURS.certificate_sha256).health(timeout_s=PATIENCE_S).state
            == "healthy"
        )
    with hostile_server(good, OTHERS) as server, pytest.raises(EndpointUntrustedError):
        EndpointClient(server.url, certificate_sha256=OURS.certificate_sha256).health(timeout_s=PATIENCE_S)


def test_without_a_pin_the_authorities_decide() -> None:
    """Over https without a pin a self-signed certificate is not trusted."""
    with hostile_server(good, OURS) as server, pytest.raises(EndpointUntrustedError):
        EndpointClient(server.url).health(timeout_s=PATIENCE_S)


def test_no_secret_in_repr_and_errors() -> None:
    """Neither the client's `repr` nor its errors, causes included, hold the bearer."""
    with hostile_server(closed) as server:
        client = EndpointClient(server.url, bearer=OURS.bearer)
        with pytest.raises(EndpointUnreachableError) as caught:
            client.health(timeout_s=PATIENCE_S)
    texts = [repr(client)]
    error: BaseException | None = caught.value
    while error:
        texts += [str(error), repr(error)]
        error = error.__cause__ or error.__context__
    assert OURS.bearer not in " ".join(texts)
