"""A toxiproxy in front of a server: connections through it can be cut short, frozen and slowed.

Source: https://github.com/Shopify/toxiproxy (README: HTTP API, toxics)
"""

import contextlib
import subprocess
import time
from pathlib import Path
from typing import Any

import requests

from benchmarks._servers import end
from network.addresses import free_ports

_READY_S = 20.0
_ANSWER_S = 10.0


class Toxiproxy:
    """A running toxiproxy-server; everything it does is asked of it over its own port of the loopback interface."""

    def __init__(self, program: str, log: Path) -> None:
        (port,) = free_ports(1)
        self._api = f"http://127.0.0.1:{port}"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [program, "-host", "127.0.0.1", "-port", str(port)], stdout=output, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + _READY_S
        while True:
            with contextlib.suppress(requests.RequestException):
                self._ask("GET", "/version")
                return
            if time.monotonic() > deadline or self._process.poll() is not None:
                end(self._process)
                raise SystemExit(f"toxiproxy did not come up: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.05)

    def open(self, name: str, listen: str, upstream: str) -> None:
        """Carries what comes to `listen` on to `upstream`, both `host:port`."""
        self._ask("POST", "/proxies", {"name": name, "listen": listen, "upstream": upstream, "enabled": True})

    def move(self, name: str, listen: str) -> None:
        """Listens elsewhere; connections are cut."""
        self._ask("POST", f"/proxies/{name}", {"listen": listen, "enabled": True})

    def spoil(self, name: str, kind: str, stream: str = "downstream", **attributes: Any) -> None:
        """Adds a toxic: `timeout`, `limit_data`, `slicer`, `bandwidth`, `latency`, `reset_peer`."""
        toxic = {"name": f"{kind}-{stream}", "type": kind, "stream": stream, "attributes": attributes}
        self._ask("POST", f"/proxies/{name}/toxics", toxic)

    def mend(self, name: str) -> None:
        """Removes all toxics."""
        for toxic in self._ask("GET", f"/proxies/{name}/toxics").json():
            self._ask("DELETE", f"/proxies/{name}/toxics/{toxic['name']}")

    def close(self) -> None:
        end(self._process)

    def _ask(self, method: str, path: str, body: Any = None) -> requests.Response:
        answer = requests.request(method, self._api + path, json=body, timeout=_ANSWER_S)
        answer.raise_for_status()
        return answer
