"""What is derived from ENDPOINT_SECRET: always the same, each its own, and what a TLS client really sees."""

import hashlib
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from endpoint.credentials import Credentials, new_secret
from endpoint_client import EndpointClient
from errors import EndpointUntrustedError
from tests.support.endpoint_scripts import PATIENCE_S
from tests.support.hostile_server import Line, Received, hostile_server

SECRET = "0123456789abcdefghijklmnopqrstuvwxyz-_ABCDEF"
FIELDS = ("tunnel_token", "bearer", "tls_key", "tls_certificate", "certificate_sha256")


def healthy(line: Line, request: Received) -> bool:
    line.answer(200, '{"state": "healthy"}')
    return True


def test_the_same_in_every_process() -> None:
    """Another process derives byte-identical values, key and certificate included."""
    code = (
        "import sys, hashlib; from endpoint.credentials import Credentials; c = Credentials.from_secret(sys.argv[1]); "
        f"print(hashlib.sha256(''.join(getattr(c, name) for name in {FIELDS!r}).encode()).hexdigest())"
    )
    folder = Path(__file__).parent.parent.parent
    there = subprocess.run([sys.executable, "-c", code, SECRET], cwd=folder, capture_output=True, text=True, check=True)
    here = Credentials.from_secret(SECRET)
    joined = "".join(getattr(here, name) for name in FIELDS)
    assert there.stdout.strip() == hashlib.sha256(joined.encode()).hexdigest()


def test_never_changes() -> None:
    """A newer version of this module still finds the services that an older one started."""
    credentials = Credentials.from_secret(SECRET)
    assert credentials.certificate_sha256 == "7e7b9d68fc0502f4361f589a7456d776fd7bd9777a7a05aacecd68d2a9ebb89d"
    assert credentials.bearer == "e63bd0092454a923fadefd5cb923ec2895b95cdcea28ac090d5839967156df77"
    assert credentials.tunnel_token == "dae61743b11d94ab05296851181cd739e25b07df78c2c93d665cb20bc2365cc5"


def test_each_value_its_own() -> None:
    """No two values of a secret are equal, nor those of two secrets, nor does any hold the secret."""
    one, other = Credentials.from_secret(SECRET), Credentials.from_secret(SECRET + "x")
    values = [getattr(credentials, name) for credentials in (one, other) for name in FIELDS]
    assert len(set(values)) == len(values)
    assert not any(SECRET in value for value in values)


def test_nothing_secret_in_repr() -> None:
    """`repr` shows the pin, which is public, and nothing else."""
    credentials = Credentials.from_secret(SECRET)
    assert credentials.certificate_sha256 in repr(credentials)
    assert not any(getattr(credentials, name)[:20] in repr(credentials) for name in FIELDS[:-1])


def test_new_secrets_differ_and_suffice() -> None:
    """A made secret is at least 32 bytes as text, and never the same twice."""
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(len(secret.encode()) >= 32 for secret in made)


def test_pin_is_the_served_certificate() -> None:
    """What a TLS server with key and certificate shows has exactly the pinned digest, and the client takes it."""
    credentials = Credentials.from_secret(SECRET)
    with hostile_server(healthy, tls=credentials) as server:
        served = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", server.port)))
        assert hashlib.sha256(served).hexdigest() == credentials.certificate_sha256
        client = EndpointClient(server.url, certificate_sha256=credentials.certificate_sha256)
        assert client.health(timeout_s=PATIENCE_S).state == "healthy"


def test_another_secrets_server_is_refused() -> None:
    """A server that holds another secret's certificate is not trusted, and gets no request, so no bearer either."""
    with hostile_server(healthy, tls=Credentials.from_secret(new_secret())) as server:
        ours = Credentials.from_secret(SECRET)
        client = EndpointClient(server.url, bearer=ours.bearer, certificate_sha256=ours.certificate_sha256)
        with pytest.raises(EndpointUntrustedError, match="ENDPOINT_SECRET"):
            client.health(timeout_s=PATIENCE_S)
        assert server.requests == []
