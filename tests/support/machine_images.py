"""Images for Docker engines in tests, made of what is installed here: nothing can be pulled in these tests.

They hold the product's own files in the places where its Dockerfiles put them, and start as those say.
"""

import importlib.metadata
import json
import re
from collections.abc import Iterable
from pathlib import Path

from tests.support.docker_engines import Engine, archive_of, python_archive
from tests.support.processes import REPOSITORY

INFERENCE_IMAGE, FAIR_IMAGE, TUNNEL_IMAGE = "draw", "fair-server", "rapiz1/rathole:v0.5.0"
_PACKAGES = "/opt/site-packages"
_PATHS = ("PATH=/usr/local/bin:/usr/bin:/bin", f"PYTHONPATH=/app:{_PACKAGES}", "LD_LIBRARY_PATH=/usr/local/lib")


def import_inference_image(engine: Engine) -> None:
    """The inference server with OpenVINO and the demo model."""
    names = re.findall(r"^([\w.-]+)==", (REPOSITORY / "inference_server/lock/openvino.txt").read_text(), re.MULTILINE)
    ours = {f"/app/{name}": REPOSITORY / name for name in ("inference_server", "demo_model")}
    entry = _entrypoint(REPOSITORY / "inference_server/Dockerfile")
    environment = (*_PATHS, "HOME=/tmp", "INFERENCE_ENGINE=openvino")
    archive = python_archive({**_installed(names), **ours})
    _import(engine, INFERENCE_IMAGE, archive, entry, environment, user="1000:1000")


def import_fair_image(engine: Engine) -> None:
    """fair_server, as its Dockerfile makes it."""
    texts = [
        (REPOSITORY / f"fair_server/{name}").read_text() for name in ("requirements.txt", "requirements-swarm.txt")
    ]
    pinned = re.findall(r"^([\w.-]+)==", "\n".join(texts), re.MULTILINE)
    entry = _entrypoint(REPOSITORY / "fair_server/Dockerfile")
    files = {**_installed(_closure(pinned)), "/app/fair_server": REPOSITORY / "fair_server"}
    _import(engine, FAIR_IMAGE, python_archive(files), entry, _PATHS)


def import_tunnel_image(engine: Engine, rathole: Path) -> None:
    """rathole as its own image has it: entrypoint, folder and user."""
    _import(engine, TUNNEL_IMAGE, archive_of({"/app/rathole": rathole}), ["./rathole"], _PATHS, user="1000:1000")


def make_image_without_its_user(engine: Engine) -> None:
    """The tunnel's image with a user that is not in it, named `without/its-user:1`."""
    container = engine.docker("create", TUNNEL_IMAGE).strip()
    engine.docker("commit", "--change", "USER nobody-there", container, "without/its-user:1")
    engine.docker("rm", container)


def _import(
    engine: Engine,
    name: str,
    archive: bytes,
    entrypoint: list[str],
    environment: Iterable[str],
    user: str | None = None,
) -> None:
    changes = [f"ENTRYPOINT {json.dumps(entrypoint)}", "WORKDIR /app", *(f"ENV {line}" for line in environment)]
    changes += [f"USER {user}"] if user else []
    options = [part for change in changes for part in ("--change", change)]
    engine.docker("import", *options, "-", name, stdin=archive, timeout_s=300)


def _entrypoint(dockerfile: Path) -> list[str]:
    found = re.search(r"^ENTRYPOINT (\[.*?\])$", dockerfile.read_text().replace("\\\n", ""), re.MULTILINE)
    assert found, f"no ENTRYPOINT in {dockerfile}"
    entry = json.loads(found.group(1))
    return ["python3" if word == "python" else str(word) for word in entry]


def _installed(names: Iterable[str]) -> dict[str, Path]:
    """The files and folders at the top of these packages, by their paths in the image."""
    found: dict[str, Path] = {}
    for name in names:
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        for file in files:
            top = file.parts[0]
            if top not in ("..", "__pycache__"):
                found[f"{_PACKAGES}/{top}"] = (
                    Path(str(file.locate())).parents[len(file.parts) - 2]
                    if len(file.parts) > 1
                    else Path(str(file.locate()))
                )
    return found


def _closure(names: Iterable[str]) -> set[str]:
    """These packages and all that they need here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        waiting += [re.split(r"[^\w.-]", one, maxsplit=1)[0] for one in needed if "extra ==" not in one]
    return found
