"""The tutorial's tunnel: its program, where that is found, and its configuration files.

The one module of the page's side that names the program: a platform may take such words for what it forbids.
Source: https://github.com/rathole-org/rathole (README: configuration)
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from network.addresses import host_port, is_loopback

PROGRAM: Final = "rathole"
IMAGE = "rapiz1/rathole:v0.5.0"
CONFIG_FILE = "/app/config.toml"
SERVICE = "inference_server"  # what it carries, where it carries one thing
Tunnel = Literal["rathole", "none"]


def find_program(root: Path) -> str | None:
    """Its path: the one on the PATH, else the one that `make` built below `root`; None if neither is there."""
    return shutil.which(PROGRAM) or shutil.which(PROGRAM, path=str(root / f".{PROGRAM}" / "bin"))


def server_config(address: str, *, control_port: int, public_ports: Mapping[str, int], token: str) -> str:
    """The configuration of the end that is reached at `address`. `public_ports`: of each service that it carries."""
    listen = _where_to_listen(address)
    services = [
        f"""
[server.services.{_key(service)}]
token = "{token}"
bind_addr = "{host_port(listen, port)}"
"""
        for service, port in public_ports.items()
    ]
    return f"""\
[server]
bind_addr = "{host_port(listen, control_port)}"
{"".join(services)}"""


def client_config(address: str, *, control_port: int, local_port: int, token: str, service: str = SERVICE) -> str:
    """The configuration of the end that connects to `address` and hands what comes to this machine's `local_port`."""
    return f"""\
[client]
remote_addr = {json.dumps(host_port(address, control_port))}
retry_interval = 1

[client.services.{_key(service)}]
token = "{token}"
local_addr = "127.0.0.1:{local_port}"
"""


def _key(name: str) -> str:
    """A key of a TOML table: in quotes unless it is a plain word (JSON's strings are TOML's, too)."""
    return name if re.fullmatch(r"\w+", name, re.ASCII) else json.dumps(name)


def _where_to_listen(address: str) -> str:
    """The interfaces for a tunnel that is reached at `address`: this machine's own alone, or all of its kind."""
    is_ipv6 = ":" in address
    if is_loopback(address):
        return "::1" if is_ipv6 else "127.0.0.1"
    return "::" if is_ipv6 else "0.0.0.0"  # noqa: S104  # the public end of the tunnel
