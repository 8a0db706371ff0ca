"""The image, built and run by a real Docker: it draws however it is reached. `make test-image` runs this.

The base is `python:3.11-slim-bookworm`, or IMAGE_TEST_BASE, or, where nothing can be pulled, a Debian made by
debootstrap with this machine's certificates.
"""

import base64
import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

import demo_model
from endpoint.credentials import Credentials
from tests.support.chain import SECRET
from tests.support.docker_engine import Docker, find_docker, missing, own_engine, registry, timed
from tests.support.model_hub import running_model_hub
from tests.support.processes import REPOSITORY, Processes, free_port, wait_until
from tests.support.readme import command
from tests.support.space import start_space

pytestmark = [pytest.mark.slow, pytest.mark.image, pytest.mark.timeout(1800)]
CREDENTIALS = Credentials.from_secret(SECRET)
PULLED_BASE, MADE_BASE = "python:3.11-slim-bookworm", "inference-server-test-base"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
USER = 1000
MODEL_ID, TOKEN = "owner/model", "hf_of_the_test"
READ_ONLY = ("--read-only", "--tmpfs", "/tmp:exec", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


@dataclass(frozen=True)
class Container:
    """A container of the image, run as a worker's owner or Fair would."""

    docker: Docker
    name: str

    def inspect(self, template: str) -> Any:
        return json.loads(self.docker("inspect", "--format", f"{{{{json {template}}}}}", self.name))

    def logs(self) -> str:
        return self.docker("logs", self.name)

    def wait_until_healthy(self) -> None:
        wait_until("a healthy container", lambda: self.inspect(".State.Health.Status") == "healthy", 120)

    def written(self) -> list[str]:
        """What is new or other than in the image, outside the volumes and the places that Docker mounts on."""
        mounts = ["/app", *(mount["Destination"] for mount in self.inspect(".Mounts"))]
        lines = self.docker("diff", self.name).splitlines()
        return [line for line in lines if line.partition(" ")[2] not in mounts]

    def stop(self) -> tuple[int, float]:
        """The exit code after `docker stop`, and the seconds that it took."""
        started_s = time.monotonic()
        self.docker("stop", self.name)
        return int(self.inspect(".State.ExitCode")), time.monotonic() - started_s


@pytest.fixture(scope="module")
def docker() -> Docker:
    """Skips the module where no daemon answers, or none that can build this."""
    found = find_docker()
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture(scope="module")
def base(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> str:
    if given := os.environ.get("IMAGE_TEST_BASE"):
        return given
    for image in (PULLED_BASE, MADE_BASE):
        if docker.has(image):
            return image
    try:
        docker("pull", PULLED_BASE, timeout_s=300)
    except (AssertionError, subprocess.TimeoutExpired):
        return _bootstrapped(docker, tmp_path_factory.mktemp("base"))
    return PULLED_BASE


def _bootstrapped(docker: Docker, folder: Path) -> str:
    if shutil.which("debootstrap") is None or os.geteuid():
        pytest.skip(f"{PULLED_BASE} cannot be pulled, and debootstrap, as root, is not there to make a base")
    root, archive = folder / "root", folder / "root.tar"
    packages = "--include=python3,python3-venv,ca-certificates"
    subprocess.run(["debootstrap", "--variant=minbase", packages, "bookworm", root], check=True, capture_output=True)
    variables = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
    if CERTIFICATES.is_file():
        shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
    subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
    environment = "ENV " + " ".join(f"{name}={CERTIFICATES}" for name in variables)
    docker("import", "--change", environment, archive, MADE_BASE, timeout_s=300)
    return MADE_BASE


def build(docker: Docker, base: str, tag: str, *options: str) -> str:
    """Builds the image for a CPU; returns the build's output."""
    arguments = ("--build-arg", f"BASE={base}", "--build-arg", "INFERENCE_ENGINE=openvino", "--progress", "plain")
    return docker("build", *arguments, *options, "--tag", tag, REPOSITORY / "inference_server", timeout_s=1500)


@pytest.fixture(scope="module")
def image(docker: Docker, base: str) -> str:
    build(docker, base, "inference-server-test")
    return "inference-server-test"


@pytest.fixture
def run(docker: Docker, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Starts a container: options of `docker run`, the image, arguments; removes it and its volume after the test."""
    names: list[str] = []

    def start(options: tuple[str, ...], image: str, *arguments: str) -> Container:
        name = f"inference-server-test-{os.getpid()}-{len(names)}"
        names.append(name)
        docker("run", "--detach", "--name", name, "--volume", f"{name}:/data", *options, image, *arguments)
        return Container(docker, name)

    yield start
    for name in names:
        docker("rm", "--force", "--volumes", name)
        docker("volume", "rm", "--force", name)


DEMO_MODEL = ("--volume", f"{REPOSITORY / 'demo_model'}:/app/demo_model:ro")  # what serves without a MODEL_ID


def test_it_listens_with_tls_and_a_bearer(processes: Processes, image: str, run: Any, tmp_path: Path) -> None:
    """As Fair runs it, read-only and as uid 1000: the page draws on it, and it ends with 0 when it is stopped."""
    file = tmp_path / "endpoint.json"
    keys = ("bearer", "tls_key", "tls_certificate")
    file.write_text(json.dumps({key: getattr(CREDENTIALS, key) for key in keys}))
    file.chmod(0o400)
    os.chown(file, USER, USER)
    port = free_port()
    mounted = ("--volume", f"{file}:/app/endpoint.json:ro", "--publish", f"127.0.0.1:{port}:8000")
    container = run((*READ_ONLY, *DEMO_MODEL, *mounted), image, "--config", "/app/endpoint.json")
    container.wait_until_healthy()
    space = start_space(processes, {"ENDPOINT_URL": f"https://127.0.0.1:{port}", "ENDPOINT_SECRET": SECRET})
    assert space.draw().size == (256, 256)
    assert container.docker("exec", container.name, "id", "-u") == str(USER)
    assert container.written() == []
    code, took_s = container.stop()
    assert code == 0
    assert took_s < 8
    assert CREDENTIALS.bearer not in container.logs()


def test_it_dials_a_space(processes: Processes, image: str, run: Any) -> None:
    """A worker listens on no port, is healthy while its line holds, and the Space draws on it.

    Its root may be written here: nothing is, outside /data and /tmp.
    """
    space = start_space(processes, {"ENDPOINT_SECRET": SECRET, "FALLBACK": "none"})
    settings = ("--network", "host", "--env", f"WORKER_KEY={CREDENTIALS.worker_key}", "--env", "WORKER_NAME=box")
    container = run(("--tmpfs", "/tmp:exec", *DEMO_MODEL, *settings), image, "--connect", space.url)
    space.program.wait_for_line("worker box .*is there", 120)
    assert space.draw().size == (256, 256)
    container.wait_until_healthy()
    owner = ("exec", container.name, "python", "-m", "inference_server")
    assert "then the GPU is free" in container.docker(*owner, "pause", "--for", "2h")
    container.docker("restart", "--time", "20", container.name)
    wait_until("the worker again", lambda: "as box since" in container.docker(*owner, "status"))
    status = json.loads(container.docker(*owner, "status", "--json"))
    assert (status["paused"], status["engine"], status["pictures_today"]) == (True, "asleep", 1)
    assert "over" in container.docker(*owner, "resume")

    def drawn_again() -> Any:
        """Nothing while the Space has not heard yet that the pause is over."""
        try:
            return space.draw()
        except AssertionError as error:
            if "paused by its owner" not in str(error):
                raise
            return None

    assert wait_until("the Space to hear of it", drawn_again).size == (256, 256)
    assert "listening" not in container.logs()
    assert container.written() == []
    code, took_s = container.stop()
    assert code == 0
    assert took_s < 8
    wait_until("the goodbye", lambda: "it said goodbye" in space.program.output())
    assert CREDENTIALS.worker_key not in container.logs()


def test_it_hears_a_stop_while_it_starts(image: str, run: Any) -> None:
    """The first process of a container has no default for signals: this one has its own from the start."""
    container = run(DEMO_MODEL, image, "--open")
    pid = container.inspect(".State.Pid")
    status = Path(f"/proc/{pid}/status")
    wait_until("a handler for SIGTERM", lambda: int(status.read_text().partition("SigCgt:\t")[2][:16], 16) >> 14 & 1)
    code, took_s = container.stop()
    assert code == 0
    assert took_s < 8


def test_weights_are_built_in(docker: Docker, base: str, run: Any, tmp_path: Path) -> None:
    """A gated model is fetched by the build, with a secret that no layer holds; it is drawn with without a network."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    with running_model_hub(MODEL_ID, demo_model.folder(), TOKEN) as hub:
        build(
            *(docker, base, "inference-server-test-model"),
            *("--network", "host", "--secret", f"id=HF_TOKEN,src={token}"),
            *("--build-arg", f"MODEL_ID={MODEL_ID}", "--build-arg", f"HF_ENDPOINT={hub.url}"),
        )
        assert hub.asked
    assert TOKEN not in docker("history", "--no-trunc", "inference-server-test-model")
    assert TOKEN not in docker("inspect", "inference-server-test-model")
    container = run((*READ_ONLY, "--network", "none"), "inference-server-test-model", "--open")
    container.wait_until_healthy()
    wait_until("the model", lambda: f"engine ready: {MODEL_ID}" in container.logs(), 120)
    assert (
        docker("exec", "--user", "0", container.name, "sh", "-c", f"grep -rl {TOKEN} /models /app /root || true") == ""
    )


def test_it_goes_through_a_registry(docker: Docker, image: str, tmp_path: Path) -> None:
    """Pushed, pulled by an engine that has nothing of it, and run there read-only as uid 1000: it draws."""
    if lacking := [*missing(("docker-registry", "dockerd")), *(["root"] if os.geteuid() else [])]:
        pytest.skip(f"this takes {', '.join(lacking)}")
    port = free_port()
    with registry(tmp_path) as address, own_engine(docker.program) as other:
        name = f"{address}/you/draw"
        docker("tag", image, name)
        pushed_s = timed(docker, "push", name)
        docker("rmi", name)
        assert not other.has(name)
        pulled_s = timed(other, "pull", name)
        size_mb = int(other("image", "inspect", "--format", "{{.Size}}", name)) / 1e6
        blobs_mb = sum(file.stat().st_size for file in (tmp_path / "blobs").rglob("data")) / 1e6
        print(f"push {pushed_s:.1f} s, pull {pulled_s:.1f} s, {blobs_mb:.0f} MB sent, {size_mb:.0f} MB unpacked")
        listening = ("--host", "127.0.0.1", "--port", str(port))
        other("run", "--detach", "--name", "draw", "--network", "host", *READ_ONLY, *DEMO_MODEL, name, *listening)
        container = Container(other, "draw")
        try:
            container.wait_until_healthy()
            answer = requests.post(
                f"http://127.0.0.1:{port}", json={"modelInputs": {"prompt": "a red apple"}}, timeout=120
            )
            picture = Image.open(io.BytesIO(base64.b64decode(answer.json()["image_base64"])))
            assert picture.size == (256, 256)
            assert other("exec", "draw", "id", "-u") == str(USER)
            assert container.written() == []
        finally:
            other("rm", "--force", "--volumes", "draw")


def test_the_lines_of_the_readme(docker: Docker, base: str, processes: Processes, tmp_path: Path) -> None:
    """`docker build` and `docker run` as printed make a worker that fetches its model and draws for the Space.

    Only what this machine cannot have is added or left out: the base and the engine for a CPU, `--gpus all` where there
    is no nvidia runtime, a Space and a Hub on loopback; and names of its own, so that a real worker is left alone.
    """
    unique = f"draw-test-{os.getpid()}"
    built = command("The GPU box dials the Space", "docker", "build")
    here = ["--build-arg", f"BASE={base}", "--build-arg", "INFERENCE_ENGINE=openvino", "--network", "host"]
    docker("build", *here, *(unique if word == "draw" else word for word in built[2:]), timeout_s=1500)
    printed = command("The GPU box dials the Space", "docker", "run")
    filled = {
        "draw": unique,
        "draw:/data": f"{unique}:/data",
        "WORKER_KEY=...": f"WORKER_KEY={CREDENTIALS.worker_key}",
        "MODEL_ID=OWNER/NAME": f"MODEL_ID={MODEL_ID}",
    }
    words = [filled.get(word, word) for word in printed[2:]]
    assert words.count(unique) == 2
    if "nvidia" not in docker("info", "--format", "{{json .Runtimes}}"):
        del words[words.index("--gpus") : words.index("--gpus") + 2]
    space = start_space(processes, {"ENDPOINT_SECRET": SECRET, "FALLBACK": "none"})
    with running_model_hub(MODEL_ID, demo_model.folder(), None) as hub:
        try:
            added = ("--network", "host", "--env", f"HF_ENDPOINT={hub.url}")
            docker("run", *added, *words, "--connect", space.url)
            space.program.wait_for_line("worker .* is there", 120)
            assert space.draw().size == (256, 256)
            assert "Downloading the model" in docker("logs", unique) or hub.sent_bytes
            Container(docker, unique).wait_until_healthy()
        finally:
            docker("rm", "--force", "--volumes", unique)
            docker("volume", "rm", "--force", unique)
            docker("rmi", unique)
