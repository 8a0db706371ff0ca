"""What a worker says when it gets no line to its Space: each trouble in its own sentence, by real handshakes."""

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from endpoint.credentials import Credentials
from inference_server import healthcheck
from inference_server.line_trouble import why_late, why_no_line
from inference_server.space import Space
from tests.support.hostile_server import Line, Received, hostile_server
from tests.support.processes import free_port, wait_until
from tests.support.worker_line import KEY, worker

ROAD = 'the answer is the tutorial\'s road (README.md, "Through Fair and a tunnel")'


@pytest.fixture(autouse=True)
def _logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def answering(status: int, **headers: str) -> Callable[[Line, Received], bool]:
    """A front that answers every request so, whatever it wants to upgrade to."""

    def script(line: Line, request: Received) -> bool:
        line.answer(status, "<html>no</html>", **headers)
        return False

    return script


REFUSED = {
    "upgrade-taken-out": (answering(426), ("it answered 426", "a proxy on the way lets no WebSocket through", ROAD)),
    "a-page-instead": (answering(200), ("a proxy on the way lets no WebSocket through", ROAD)),
    "not-implemented": (answering(501), ("a proxy on the way lets no WebSocket through", ROAD)),
    "proxy-login": (answering(407), ("a proxy on the way wants a login", ROAD)),
    "wrong-key": (answering(403, X_Worker_Key="wrong"), ("the key is wrong", "worker-key")),
    "refused-by-whom": (answering(403), ("the key is wrong", "or a proxy", ROAD)),
    "private": (answering(401), ("the Space is private", "HF_TOKEN")),
    "no-workers": (answering(404), ("no worker may connect there", "ENDPOINT_SECRET")),
    "paused": (answering(503), ("it starts or is paused",)),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_what_answers_instead(refused: str, caplog: pytest.LogCaptureFixture) -> None:
    """One warning with what came back and what to do; no key in it."""
    script, words = REFUSED[refused]
    with hostile_server(script) as server, worker(server.port):
        wait_until("the warning", lambda: "cannot connect to" in caplog.text)
    (told,) = {record.getMessage() for record in caplog.records if "cannot connect" in record.getMessage()}
    assert [word for word in words if word not in told] == []
    assert (ROAD in told) == (ROAD in words)
    assert KEY not in caplog.text


def test_the_healthcheck_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`docker inspect` shows the same sentence as the log, and no longer once there is a line."""
    beats = tmp_path / "beat"
    monkeypatch.setenv("WORKER_BEAT_FILE", str(beats))
    monkeypatch.setenv("SPACE", "you/draw")
    with hostile_server(answering(426)) as server, worker(server.port):
        wait_until("the reason", lambda: "lets no WebSocket through" in healthcheck.check([])[1])
    assert not healthcheck.check([])[0]
    healthcheck.note_trouble("")
    assert healthcheck.check([]) == (False, "there was no line to the Space yet; the log says why")


def test_nobody_answers(caplog: pytest.LogCaptureFixture) -> None:
    """A closed port: it is tried again, and what to check is told once."""
    with worker(free_port()):
        wait_until("the warning", lambda: "check that the Space runs" in caplog.text)
    assert caplog.text.count("cannot connect") == 1


@contextlib.contextmanager
def tls_front(tmp_path: Path) -> Iterator[int]:
    """A server whose certificate nobody trusts, as of a proxy that opens what is encrypted."""
    credentials = Credentials.from_secret("0123456789abcdefghijklmnopqrstuvwxyz-_ABCDEF")
    (tmp_path / "pem").write_text(credentials.tls_key + credentials.tls_certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with contextlib.suppress(ssl.SSLError):
                        context.wrap_socket(listening.accept()[0], server_side=True).close()

        threading.Thread(target=serve, daemon=True).start()
        yield int(listening.getsockname()[1])


def test_a_certificate_that_nobody_trusts(tmp_path: Path) -> None:
    """The sentence tells the time that this machine has: a wrong clock looks like a wrong certificate."""
    with tls_front(tmp_path) as port:
        space = Space(f"https://localhost:{port}", "box", KEY)
        with pytest.raises(ssl.SSLCertVerificationError) as refused:
            ssl.create_default_context().wrap_socket(
                socket.create_connection(("127.0.0.1", port)), server_hostname="localhost"
            )
    told = why_no_line(refused.value, space)
    assert "its certificate is refused here: self-signed certificate" in told
    assert f"This machine's clock says {time.strftime('%Y-%m-%d', time.gmtime())}" in told


@pytest.mark.parametrize(("ahead_s", "told"), [(3600, "behind"), (-3600, "ahead of"), (20, None)])
def test_a_clock_that_is_wrong(ahead_s: int, told: str | None) -> None:
    """An hour's difference from the Space's clock is told, some seconds are not."""
    now = 1_800_000_000.0
    said = why_late({"Date": formatdate(now + ahead_s, usegmt=True)}, now)
    assert (said is None) == (told is None)
    if said:
        assert f"this machine's clock is 3600 s {told} the Space's" in said
        assert "timedatectl set-ntp true" in said


def test_no_date_is_no_wrong_clock() -> None:
    """No date, or none that can be read, is nothing to speak of."""
    assert why_late({}, 0) is None
    assert why_late({"Date": "yesterday"}, 0) is None
