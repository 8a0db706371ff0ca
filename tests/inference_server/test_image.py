"""The image of the inference server: what can be told without Docker. test_image_draws.py builds it and draws."""

import json
import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from endpoint.credentials import Credentials
from inference_server import healthcheck
from inference_server.config import from_command_line
from inference_server.engine_config import EngineConfig
from inference_server.engines.model_folder import find
from tests.support.chain import SECRET
from tests.support.model_hub import running_model_hub
from tests.support.processes import REPOSITORY, free_port
from tests.test_requirements import pins

CONTEXT = REPOSITORY / "inference_server"
ENGINES = ("openvino", "diffusers")
MODEL_ID, TOKEN = "owner/model", "hf_of_the_test"


def instructions(name: str) -> list[str]:
    """The Dockerfile's instructions of this name, without it, each on one line."""
    text = re.sub(r"(?m)^#.*\n", "", (CONTEXT / "Dockerfile").read_text())
    lines = text.replace("\\\n", " ").splitlines()
    return [line.removeprefix(name).strip() for line in lines if line.startswith(f"{name} ")]


def copied(engine: str) -> list[list[str]]:
    """The sources of each COPY from the context."""
    copies = [shlex.split(line) for line in instructions("COPY") if not line.startswith("--from")]
    return [[source.replace("${INFERENCE_ENGINE}", engine) for source in words[:-1]] for words in copies]


def in_context(path: str) -> bool:
    """Whether Docker sends this path of the folder to the builder.

    Source: https://docs.docker.com/build/concepts/context/#dockerignore-files (the last pattern that fits wins)
    """
    sent = True
    parents = ["/".join(path.split("/")[:count]) for count in range(1, path.count("/") + 2)]
    for line in (CONTEXT / ".dockerignore").read_text().splitlines():
        pattern = line.lstrip("!")
        if line and not line.startswith("#") and any(_fits(parent, pattern) for parent in parents):
            sent = line.startswith("!")
    return sent


def _fits(path: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch(path.rpartition("/")[2], pattern.removeprefix("**/"))
    return path.count("/") == pattern.count("/") and fnmatch(path, pattern)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_copied_file_is_in_the_context(engine: str) -> None:
    """What the Dockerfile copies is there, and .dockerignore does not keep it back."""
    sources = [source for copy in copied(engine) for source in copy if source != "."]
    assert sources
    assert [source for source in sources if not (CONTEXT / source).exists() or not in_context(source)] == []


def test_the_context_holds_the_package_and_nothing_else() -> None:
    """Every module gets into the image; secrets, caches and notes that lie in the folder do not."""
    modules = [file.relative_to(CONTEXT).as_posix() for file in CONTEXT.rglob("*.py")]
    assert [module for module in modules if not in_context(module)] == []
    others = [
        *(".env", ".env.local", "endpoint.json", "key.pem", ".git/config", ".venv/bin/python", "README.md"),
        *("__pycache__/config.cpython-311.pyc", "engines/__pycache__/x.pyc", "engines/.env", "model/unet.safetensors"),
    ]
    assert [other for other in others if in_context(other)] == []


@pytest.mark.parametrize("engine", ENGINES)
def test_the_lock_has_the_pinned_versions(engine: str) -> None:
    """An image gets the versions of requirements.txt, every one with its hashes."""
    locked = (CONTEXT / "lock" / f"{engine}.txt").read_text().replace("\\\n", " ").splitlines()
    assert [line for line in locked if "--hash=sha256:" not in line] == []
    versions = {line.partition("==")[0]: line.split()[0].partition("==")[2] for line in locked}
    common, _, engines = (CONTEXT / "requirements.txt").read_text().partition("# INFERENCE_ENGINE=openvino\n")
    openvino, _, diffusers = engines.partition("# INFERENCE_ENGINE=diffusers\n")
    wanted = common + (openvino if engine == "openvino" else diffusers)
    named = {line.partition("==")[0] for line in wanted.splitlines()}
    missing = {name: version for name, version in pins("inference_server/requirements.txt").items() if name in named}
    assert missing
    assert {name: versions.get(name) for name in missing} == missing


def test_the_entrypoint_listens_for_fair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With Fair's arguments after it, the server listens on port 8000 of every address, as the file says."""
    file = tmp_path / "endpoint.json"
    file.write_text('{"bearer": "b", "model_id": "owner/other"}')
    told = from_command_line([*_entrypoint(monkeypatch), "--config", str(file)])
    assert (told.host, told.port, told.space) == ("0.0.0.0", 8000, None)
    assert told.config.model_id == "owner/other"


def test_the_entrypoint_dials_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """SPACE and WORKER_KEY in the environment alone make a worker of it."""
    monkeypatch.setenv("SPACE", "you/draw")
    monkeypatch.setenv("WORKER_KEY", "k" * 64)
    told = from_command_line(_entrypoint(monkeypatch))
    assert told.space is not None
    assert told.space.url == "https://you-draw.hf.space"
    assert told.config.model_id is None


def _entrypoint(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Its arguments, and the image's environment for the server, as an image without a model has it."""
    for line in instructions("ENV"):
        for name, _, value in (word.partition("=") for word in shlex.split(line)):
            if name.startswith(("INFERENCE", "MODEL")):
                monkeypatch.setenv(name, "openvino" if name == "INFERENCE_ENGINE" else re.sub(r"\$\{\w+\}", "", value))
    argv = json.loads(instructions("ENTRYPOINT")[0])
    assert argv[:3] == ["python", "-m", "inference_server"]
    return list(argv[3:])


@pytest.mark.slow
def test_a_model_is_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules that the Dockerfile takes for it fetch a gated model, which the server then finds without the hub."""
    into, models = tmp_path / "build" / "inference_server", tmp_path / "models"
    into.mkdir(parents=True)
    for source in next(copy for copy in copied("openvino") if "download.py" in copy):
        shutil.copy(CONTEXT / source, into)
    shutil.copytree(CONTEXT / "engines", into / "engines")
    served = tmp_path / "served"
    (served / "unet").mkdir(parents=True)
    (served / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (served / "unet" / "openvino_model.bin").write_bytes(b"weights")
    with running_model_hub(MODEL_ID, served, TOKEN) as hub:
        refused = _download(tmp_path, hub.url, models, token="")
        done = _download(tmp_path, hub.url, models, token=TOKEN)
    assert refused.returncode == 1
    assert MODEL_ID in refused.stderr
    assert "HF_TOKEN" in refused.stderr
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    monkeypatch.setenv("BUILT_IN_MODELS", str(models))
    found = find(EngineConfig(model_id=MODEL_ID), lambda stage: None, fetch=_no_hub)
    assert found.name == MODEL_ID
    assert (found.folder / "unet" / "openvino_model.bin").read_bytes() == b"weights"
    assert not any(file.is_symlink() for file in models.rglob("*"))


def _download(tmp_path: Path, hub: str, models: Path, token: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "inference_server.download", "--model-id", MODEL_ID, str(models)],
        cwd=tmp_path / "build",
        env={**os.environ, "HF_ENDPOINT": hub, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _no_hub(*_: object) -> Path:
    raise AssertionError("the hub was asked")


def test_another_revision_is_not_the_built_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is fetched when the image holds another revision of it."""
    (tmp_path / "owner%2Fmodel@main").mkdir()
    monkeypatch.setenv("BUILT_IN_MODELS", str(tmp_path))
    config = EngineConfig(model_id=MODEL_ID, model_revision="v2")
    assert find(config, lambda stage: None, fetch=lambda *_: tmp_path / "fetched").folder == tmp_path / "fetched"


@pytest.fixture(params=["http", "https"])
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """The arguments of a server that answers as the healthcheck does, with a certificate of its own or none."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = b'{"state": "loading", "gpu": false}'
            self.send_response(200 if self.path == "/healthcheck" else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    credentials = Credentials.from_secret(SECRET)
    told = {"bearer": credentials.bearer}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if request.param == "https":
        told |= {"tls_key": credentials.tls_key, "tls_certificate": credentials.tls_certificate}
        (tmp_path / "pem").write_text(credentials.tls_key + credentials.tls_certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    (tmp_path / "endpoint.json").write_text(json.dumps(told))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield ["--host", "0.0.0.0", "--port", str(server.server_port), "--config", str(tmp_path / "endpoint.json")]
    server.shutdown()
    server.server_close()


def test_a_server_that_answers_is_healthy(listening: list[str]) -> None:
    """With TLS or without; while its model loads, too: nothing may restart it for that."""
    assert healthcheck.check(["python", "-m", "inference_server", *listening]) == (
        True,
        "it answers; the model's state: loading",
    )


def test_a_server_that_is_away_is_unhealthy() -> None:
    """Nobody listens: the check says so."""
    port = free_port()
    healthy, said = healthcheck.check(["--port", str(port)])
    assert not healthy
    assert f"no answer from port {port}" in said


def test_a_beat_that_cannot_be_noted_ends_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk the container looks unhealthy, and its worker draws."""
    monkeypatch.setenv("WORKER_BEAT_FILE", str(tmp_path / "nowhere" / "beat"))
    assert healthcheck.with_beats(lambda: {"state": "healthy"})() == {"state": "healthy"}


@pytest.mark.parametrize("by_environment", [True, False])
def test_a_worker_is_healthy_while_its_line_holds(
    by_environment: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no port: a beat on its line makes it healthy, and for half a minute after the last one."""
    beats = tmp_path / "beat"
    monkeypatch.setenv("WORKER_BEAT_FILE", str(beats))
    arguments = [] if by_environment else ["--connect", "https://you-draw.hf.space"]
    if by_environment:
        monkeypatch.setenv("SPACE", "you/draw")
    assert healthcheck.check(arguments) == (False, "there was no line to the Space yet; the log says why")
    assert healthcheck.with_beats(lambda: {"state": "healthy"})() == {"state": "healthy"}
    assert healthcheck.check(arguments) == (True, "the line to the Space holds")
    os.utime(beats, (time.time() - 60, time.time() - 60))
    healthy, said = healthcheck.check(arguments)
    assert not healthy
    assert "broke 60 s ago" in said
