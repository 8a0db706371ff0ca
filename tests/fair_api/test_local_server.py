"""The Fair server of this machine: started when it is first needed, started again, ended with this process."""

import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote_plus

import pytest

from errors import FairError
from fair_api import local_server as local_fair
from fair_api.local_server import INFERENCE_IMAGE, NODE, LocalFair
from fair_api.models import ContainerSpec
from tests.support.processes import REPOSITORY, is_running, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def fair() -> Iterator[LocalFair]:
    made = LocalFair(tunnel_image="my-rathole", tunnel_program="/bin/true")
    yield made
    made.close()


def pid_of(fair: LocalFair) -> int:
    assert fair._process is not None
    return fair._process.pid


def test_lazy_and_once(fair: LocalFair) -> None:
    """Nothing runs before the first `connect`; a second one gives the same client."""
    assert fair._process is None
    client = fair.connect()
    assert fair.connect() is client
    assert [(node.name, node.host_address) for node in client.nodes()] == [(NODE, "127.0.0.1")]


def test_images(fair: LocalFair) -> None:
    """It runs the inference image and the tunnel's, under the names that the settings give them, and no other."""
    client = fair.connect()
    ends = {}
    for image in ("my-rathole", "rapiz1/rathole:v0.5.0", INFERENCE_IMAGE):
        program = client.launch(NODE, ContainerSpec(image, ["--no-such-option"]))
        ends[image] = wait_until("it to end", functools.partial(client.end_of, program))
    assert ends["my-rathole"] is not None
    assert ends["my-rathole"].exit_code == 0
    assert "does not run the image" in str(ends["rapiz1/rathole:v0.5.0"])
    assert "--no-such-option" in str(ends[INFERENCE_IMAGE])


def test_it_comes_back(fair: LocalFair) -> None:
    """A server that was killed is started again by the next `connect`."""
    fair.connect()
    first = pid_of(fair)
    os.kill(first, signal.SIGKILL)
    assert fair._process is not None
    fair._process.wait(60)
    assert fair.connect().nodes()
    assert pid_of(fair) != first


def test_close_ends_all(fair: LocalFair) -> None:
    """`close` ends the server and what it runs, and may be called again."""
    fair.connect()
    server = pid_of(fair)
    fair.close()
    assert not is_running(server)
    fair.close()


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    """The server ends when the process that started it is killed, and no file of the two is left."""
    code = (
        "from fair_api.local_server import LocalFair\n"
        "fair = LocalFair(tunnel_image='x', tunnel_program=None); fair.connect()\n"
        "print(fair._process.pid, flush=True); input()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    server = parent.stdout.readline()
    parent.kill()
    parent.wait(60)
    wait_until("the server to end", lambda: not is_running(int(server)))
    parent.stdout.close()
    assert not list(tmp_path.iterdir())


def test_the_configuration_of_another_chain_stays_out(fair: LocalFair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The account of another Fair, secrets and a model set for elsewhere do not reach the server, nor its programs."""
    for name in ("FAIRCOMPUTE_PASSWORD", "ENDPOINT_SECRET", "MODEL_ID", "INFERENCE_IMAGE", "TUNNEL", "HF_TOKEN"):
        monkeypatch.setenv(name, "from elsewhere")
    fair.connect()
    server = dict(
        row.split("=", 1) for row in Path(f"/proc/{pid_of(fair)}/environ").read_text().split("\0") if "=" in row
    )
    assert server["FAIRCOMPUTE_PASSWORD"] != "from elsewhere"
    assert not {"ENDPOINT_SECRET", "MODEL_ID", "INFERENCE_IMAGE", "TUNNEL"} & set(server)


def test_what_the_inference_server_needs_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device and the token for gated models reach what runs here; the token stands in no command line."""
    monkeypatch.setenv("INFERENCE_DEVICE", "cpu")
    monkeypatch.setenv("HF_TOKEN", "hf_of_tests")
    monkeypatch.setenv("OTHER_TOKEN", "withheld")
    fair = LocalFair(tunnel_image="environment", tunnel_program=shutil.which("env"))
    try:
        client = fair.connect()
        program = client.launch(NODE, ContainerSpec("environment"))
        wait_until("it to end", functools.partial(client.end_of, program))
        printed = client._request(
            "get", f"{client._url}/buckets/{program.bucket_id}/{quote_plus('#stdout')}"
        ).text.splitlines()
        command_line = Path(f"/proc/{pid_of(fair)}/cmdline").read_text()
    finally:
        fair.close()
    assert {"INFERENCE_DEVICE=cpu", "HF_TOKEN=hf_of_tests"} <= set(printed)
    assert not any(row.startswith(("OTHER_TOKEN=", "FAIRCOMPUTE_")) for row in printed)
    assert "hf_of_tests" not in command_line


def test_a_server_that_does_not_start(fair: LocalFair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that ends at once, or says nothing, is told with what came back, and the next try starts anew."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", "/bin/false")
        with pytest.raises(FairError, match=r"own Fair server.*exit code 1.*by hand"):
            fair.connect()
        patched.setattr(sys, "executable", "/bin/cat")
        patched.setattr(local_fair, "_READY_S", 0.3)
        with pytest.raises(FairError, match="own Fair server"):
            fair.connect()
    assert fair.connect().nodes()
