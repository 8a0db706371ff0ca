"""The Space that a worker dials: its address, and the key that it asks for."""

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Space:
    """Where to connect. `url`: the Space's, http or https; `name`: what this worker is called there."""

    url: str
    name: str
    key: str = field(repr=False)
    hub_token: str | None = field(default=None, repr=False)  # for a private Space

    @property
    def address(self) -> str:
        """The WebSocket's URL."""
        return f"ws{self.url.removeprefix('http').rstrip('/')}/worker"

    @property
    def headers(self) -> dict[str, str]:
        headers = {"X-Worker-Key": self.key}
        if self.hub_token:
            headers["Authorization"] = f"Bearer {self.hub_token}"
        return headers


def space_of(connect_to: str | None, environment: Mapping[str, str]) -> Space | None:
    """The Space of `--connect` or SPACE; None when neither is given. Raises: ValueError saying what is wrong."""
    given = connect_to or environment.get("SPACE", "").strip()
    if not given:
        return None
    key = _secret("WORKER_KEY", environment)
    if not key:
        raise ValueError("WORKER_KEY is not set: `python manage.py worker-key` prints it, on the Space's side.")
    name = environment.get("WORKER_NAME", "").strip() or socket.gethostname()
    return Space(_url_of(given), name[:64], key, _secret("HF_TOKEN", environment) or None)


def _secret(name: str, environment: Mapping[str, str]) -> str:
    """Without what was pasted along before and after it. Raises: ValueError for what cannot be a header's value."""
    secret = environment.get(name, "").strip("\ufeff\u200b \t\r\n")
    if not secret.isascii() or not secret.isprintable() or " " in secret:
        raise ValueError(f"{name} holds a space, a line's end or an invisible character: paste it once more.")
    return secret


def _url_of(given: str) -> str:
    """`owner/name` is served at `https://owner-name.hf.space`, lower case, what is no letter or digit as `-`."""
    if "://" not in given:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", given, re.ASCII):
            raise ValueError(f"SPACE is owner/name, or --connect an address; {given!r} is neither.")
        return f"https://{re.sub('[^a-z0-9]+', '-', given.lower()).strip('-')}.hf.space"
    try:
        parts = urlsplit(given)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except ValueError:  # of the port
        sound = False
    if not sound:
        shown = given.rpartition("@")[2]  # what stands before it may be a password
        raise ValueError(f"--connect takes https://owner-name.hf.space; {shown!r} is no such address.")
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError("--connect takes plain http to this machine only: on the way the key could be read.")
    return given.rstrip("/")
