"""A Fair server with a certificate of its own, which a Space knows by its SHA-256."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from errors import FairError
from fair_api.client import DeadlineFairClient
from tests.support.certificates import CertificateFiles, write_certificate
from tests.support.fair_servers import ACCOUNT, EMAIL, PASSWORD, SERVER, start_server
from tests.support.processes import Processes

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return write_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, files: CertificateFiles) -> Iterator[str]:
    """The address of a server that speaks HTTPS."""
    processes = Processes(tmp_path_factory.mktemp("server"))
    options = ("--tls-cert", files.certificate, "--tls-key", files.key)
    yield start_server(processes, tmp_path_factory.mktemp("nodes"), *options).url
    processes.stop_all()


def test_pinned(url: str, files: CertificateFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pinned certificate is trusted, whatever authorities the environment names."""
    assert url.startswith("https://")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ssl/certs/ca-certificates.crt")
    fair = DeadlineFairClient(url, EMAIL, PASSWORD, certificate_sha256=files.sha256)
    assert [node.name for node in fair.nodes()] == ["gpu", "tunnel"]


@pytest.mark.parametrize(
    ("pin", "advice"), [("0" * 64, "FAIRCOMPUTE_CERT_SHA256"), (None, "FAIRCOMPUTE_SERVER_ADDRESS")]
)
def test_another_certificate(url: str, pin: str | None, advice: str) -> None:
    """Another certificate than the pinned one is refused before the password is sent, and so is any without a pin."""
    with pytest.raises(FairError, match="certificate is not the one to trust") as raised:
        DeadlineFairClient(url, EMAIL, PASSWORD, certificate_sha256=pin)
    assert advice in str(raised.value)
    assert raised.value.lasting or pin


def test_certificate_that_cannot_be_used(processes: Processes, files: CertificateFiles, tmp_path: Path) -> None:
    """A wrong certificate or key, or one of the two alone, ends the server with status 2 and one line."""
    (tmp_path / "no.key").write_text("nonsense")
    cases: tuple[tuple[list[str | Path], str], ...] = (
        (["--tls-cert", files.certificate], "give both"),
        (["--tls-cert", files.certificate, "--tls-key", tmp_path / "no.key"], "no.key"),
    )
    for options, named in cases:
        program = processes.start([*SERVER, *options], ACCOUNT)
        assert program.wait_for_end() == 2
        assert named in program.output()
        assert program.output().count("\n") == 1
