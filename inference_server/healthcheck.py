"""`python -m inference_server.healthcheck`: what a container's HEALTHCHECK asks. Standard library only: it is quick.

Healthy is a server that answers on its port, whatever its model does meanwhile: Docker Swarm ends an unhealthy
container, and a model that loads for an hour or a GPU that is busy is nothing that a restart cures. A server that dials
a Space has no port: it is healthy while its line to the Space holds, which it notes in a file at each beat.
"""

import argparse
import contextlib
import http.client
import json
import os
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

BEAT_FILE = "WORKER_BEAT_FILE"  # names the file in the environment
_BEAT_MAX_S = 30.0  # a beat comes every 2.5 s
_ANSWER_S = 8.0


def with_beats(health: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """The same function, which also notes in WORKER_BEAT_FILE, if that is set, when it was last called."""
    name = os.environ.get(BEAT_FILE)
    if not name:
        return health

    def noted() -> dict[str, Any]:
        with contextlib.suppress(OSError):  # a full disk ends no line
            Path(name).touch(mode=0o600)
        return health()

    return noted


def note_trouble(said: str) -> None:
    """Keeps why there is no line to the Space, for `check`; empty: there is one."""
    if name := os.environ.get(BEAT_FILE):
        Path(f"{name}.trouble").write_text(said, encoding="utf-8")


def check(arguments: Sequence[str]) -> tuple[bool, str]:
    """Whether the server with this command line is well, and a sentence for `docker inspect`."""
    options, _ = _parser().parse_known_args(arguments)
    if options.connect or os.environ.get("SPACE", "").strip():
        return _check_line(Path(os.environ[BEAT_FILE]))
    try:
        state = _state(options.host, options.port, _has_tls(options.config))
    except (OSError, ValueError, http.client.HTTPException) as exc:
        return False, f"no answer from port {options.port}: {type(exc).__name__}: {exc}"
    return True, f"it answers; the model's state: {state}"


def _check_line(beats: Path) -> tuple[bool, str]:
    trouble = Path(f"{beats}.trouble")
    why = (trouble.read_text(encoding="utf-8") if trouble.exists() else "") or "the log says why"
    try:
        age_s = time.time() - beats.stat().st_mtime
    except FileNotFoundError:
        return False, f"there was no line to the Space yet; {why}"
    if abs(age_s) > _BEAT_MAX_S:
        return False, f"the line to the Space broke {age_s:.0f} s ago; {why}"
    return True, "the line to the Space holds"


def _has_tls(config: Path | None) -> bool:
    return config is not None and bool(json.loads(config.read_text(encoding="utf-8-sig")).get("tls_key"))


def _state(host: str, port: int, tls: bool) -> str:
    """What the server's own healthcheck says. Its certificate is its own, and this is the same machine."""
    connection: http.client.HTTPConnection
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=_ANSWER_S, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=_ANSWER_S)
    try:
        connection.request("GET", "/healthcheck")
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != http.client.OK:
            raise ValueError(f"it answered {answer.status}")
        return str(json.loads(content)["state"])
    finally:
        connection.close()


def _parser() -> argparse.ArgumentParser:
    """The part of the server's command line that tells where it listens."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--connect")
    return parser


def main() -> int:
    """The exit code, for Docker: 0 healthy, 1 not."""
    # The first process is the server, or Docker's init with the server's command line behind `--`.
    first = Path("/proc/1/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
    healthy, said = check([argument for argument in first if argument != "--"])
    print(said)
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
