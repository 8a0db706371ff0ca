"""Time per picture over a worker's line against HTTP to the same inference server, in turn: loopback, and 80 ms away.

A picture of 256 x 256 px of noise, 196 KB of PNG, TLS both ways. Goals: at most 5 ms more on loopback, at most one
round trip more where there is one. The 80 ms need root (`benchmarks/_namespaces.py`).
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import _lines_engine
from benchmarks._certificate import certify
from benchmarks._link import Quality
from benchmarks._namespaces import HOME_ADDRESS, SPACE_ADDRESS, TwoMachines, missing
from benchmarks._servers import running
from fair_api.local_server import ROOT
from network.addresses import free_ports

PICTURES = 40
ROUND_TRIP_MS = 80.0
_KEY = "k" * 64
_LIMIT_S = 300


def main() -> None:
    """Prints the table."""
    print("\nTime per picture beside inference, in turn (python -m benchmarks.worker_line)")
    print(f"{'':10} {'line ms':>8} {'HTTP ms':>8} {'ratio':>6} {'more ms':>8} {'at p10':>7}   medians of {PICTURES}")
    _row("loopback", _measure("127.0.0.1", "127.0.0.1", [], []), "goal: at most 5 ms more")
    if reason := missing():
        print(f"{ROUND_TRIP_MS:g} ms away was not measured: {reason}", file=sys.stderr)
        return
    machines = TwoMachines(f"bench{os.getpid()}", Quality(100, ROUND_TRIP_MS, 0), seed=1)
    try:
        space, home = (["ip", "netns", "exec", name] for name in (machines.space, machines.home))
        goal = f"goal: at most {ROUND_TRIP_MS:g} ms more"
        _row(f"{ROUND_TRIP_MS:g} ms", _measure(SPACE_ADDRESS, HOME_ADDRESS, space, home), goal)
    finally:
        machines.close()


def _row(name: str, times: dict[str, list[float]], goal: str) -> None:
    line, http = (statistics.median(times[way]) * 1000 for way in ("line", "http"))
    best = [statistics.quantiles(times[way], n=10)[0] * 1000 for way in ("line", "http")]
    more = f"{line - http:8.1f} {best[0] - best[1]:7.1f}"
    print(f"{name:10} {line:8.1f} {http:8.1f} {line / http:6.2f} {more}   ({goal})", flush=True)


def _measure(space_address: str, home_address: str, space: list[str], home: list[str]) -> dict[str, list[float]]:
    """`space`, `home`: what to put before a command so that it runs there."""
    space_port, http_port = free_ports(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificate, key = certify(folder, [space_address, home_address])
        config = folder / "endpoint.json"
        config.write_text(
            json.dumps({"bearer": _KEY, "tls_key": key.read_text(), "tls_certificate": certificate.read_text()})
        )
        env = {
            "WORKER_KEY": _KEY,
            "DATA_DIR": str(folder / "data"),
            "INFERENCE_ENGINE": _lines_engine.NAME,
            _lines_engine.DRAWN_FILE: str(folder / "drawn"),
            "SSL_CERT_FILE": str(certificate),
        }
        worker = [*home, sys.executable, "-m", "benchmarks._lines_worker"]
        dial = ["--connect", f"https://{space_address}:{space_port}"]
        listen = ["--config", str(config), "--host", home_address, "--port", str(http_port)]
        client = [*space, sys.executable, "-m", "benchmarks._line_client", space_address, str(space_port)]
        client += [f"https://{home_address}:{http_port}", str(certificate), str(key), str(PICTURES)]
        with running([*worker, *dial], env), running([*worker, *listen], {**env, "DATA_DIR": str(folder / "http")}):
            done = subprocess.run(
                client, cwd=ROOT, env={**os.environ, **env}, stdout=subprocess.PIPE, timeout=_LIMIT_S, check=True
            )
        times: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
        return times


if __name__ == "__main__":
    main()
