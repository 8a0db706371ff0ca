"""Time per picture through rathole against directly from the same inference server, in turn: loopback, and far away.

A picture of noise, 516 KB of PNG, TLS from the client to the inference server both ways. The tunnel's public end stands
on the client's machine, so that both ways cross the same line once. Goal: a p99 of at most 5 ms more on loopback. The
line of 80 ms with 1 % loss each way needs root (`benchmarks/_link.py`: this does without `tc netem`).
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import _lines_engine
from benchmarks._certificate import certify
from benchmarks._link import Quality
from benchmarks._machine import RESULTS
from benchmarks._namespaces import HOME_ADDRESS, SPACE_ADDRESS, TwoMachines, missing
from benchmarks._servers import running
from fair_api.local_server import ROOT
from network import tunnel
from network.addresses import free_ports

FAR = Quality(mbit_s=100, round_trip_ms=80, loss_percent=1)
_BEARER = "b" * 64
_LIMIT_S = 900


@dataclass(frozen=True)
class _Place:
    """A machine: its address, and what to put before a command so that it runs there."""

    address: str
    enter: tuple[str, ...] = ()


def main() -> None:
    """Prints the table, and keeps it with `--result`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tunnel", description=__doc__)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--result", action="store_true", help="keep the table in benchmarks/results")
    arguments = parser.parse_args()
    program = tunnel.find_program(ROOT)
    if program is None:
        sys.exit("There is no rathole: `make rathole` builds it.")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = [
        f"{today}; {os.cpu_count()} cores of {platform.machine()}, Python {platform.python_version()}",
        f"Time per picture of 516 KB beside inference, in ms, {arguments.pictures} pictures each, in turn",
        "(python -m benchmarks.tunnel)",
        f"{'':22} {'direct p50':>10} {'p99':>7} {'tunnel p50':>10} {'p99':>7} {'more p50':>9} {'p99':>7}",
    ]
    here = _Place("127.0.0.1")
    lines.append(_row("loopback", _measure(program, here, here, arguments.pictures), "goal: p99 at most 5 more"))
    if reason := missing():
        lines.append(f"the line far away was not measured: {reason}")
    else:
        machines = TwoMachines(f"tunnel{os.getpid()}", FAR, seed=1)
        try:
            space, home = (
                _Place(address, ("ip", "netns", "exec", name))
                for name, address in ((machines.space, SPACE_ADDRESS), (machines.home, HOME_ADDRESS))
            )
            name = f"{FAR.round_trip_ms:g} ms, {FAR.loss_percent:g} % loss"
            lines.append(_row(name, _measure(program, space, home, arguments.pictures), ""))
        finally:
            machines.close()
    print("\n".join(lines))
    if arguments.result:
        (RESULTS / f"tunnel-{today}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(name: str, times: dict[str, list[float]], goal: str) -> str:
    values = {}
    for way, seconds in times.items():
        percentiles = statistics.quantiles(seconds, n=100, method="inclusive")
        values[way] = percentiles[49] * 1000, percentiles[98] * 1000
    (direct50, direct99), (tunnel50, tunnel99) = values["direct"], values["tunnel"]
    row = f"{name:22} {direct50:10.1f} {direct99:7.1f} {tunnel50:10.1f} {tunnel99:7.1f}"
    return f"{row} {tunnel50 - direct50:9.1f} {tunnel99 - direct99:7.1f}   {goal and f'({goal})'}".rstrip()


def _measure(program: str, space: _Place, home: _Place, pictures: int) -> dict[str, list[float]]:
    direct_port, control_port, public_port = free_ports(3)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        certificate, key = certify(folder, sorted({space.address, home.address}))
        config = folder / "endpoint.json"
        config.write_text(
            json.dumps({"bearer": _BEARER, "tls_key": key.read_text(), "tls_certificate": certificate.read_text()})
        )
        token = os.urandom(32).hex()
        ends = {
            "--server": tunnel.server_config(
                space.address, control_port=control_port, public_ports={tunnel.SERVICE: public_port}, token=token
            ),
            "--client": tunnel.client_config(
                space.address, control_port=control_port, local_port=direct_port, token=token
            ),
        }
        for (option, text), place in zip(ends.items(), (space, home), strict=True):
            file = folder / f"{option}.toml"
            file.write_text(text)
            stack.enter_context(running([*place.enter, program, option, str(file)], {}))
        env = {
            "INFERENCE_ENGINE": _lines_engine.NAME,
            "DATA_DIR": str(folder / "data"),
            _lines_engine.DRAWN_FILE: str(folder / "drawn"),
        }
        listen = ["--config", str(config), "--host", "0.0.0.0", "--port", str(direct_port)]
        server = [*home.enter, sys.executable, "-m", "benchmarks._lines_worker", *listen]
        stack.enter_context(running(server, env))
        client = [*space.enter, sys.executable, "-m", "benchmarks._tunnel_client"]
        client += [f"https://{home.address}:{direct_port}", f"https://127.0.0.1:{public_port}"]
        done = subprocess.run(
            [*client, str(certificate), str(pictures)],
            cwd=ROOT,
            env={**os.environ, "ENDPOINT_BEARER": _BEARER},
            stdout=subprocess.PIPE,
            timeout=_LIMIT_S,
            check=True,
        )
        times: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
        return times


if __name__ == "__main__":
    main()
