"""The engine process: how long a first picture takes while it is asleep, and what it leaves behind. Goal: nothing.

A server with a short idle time draws, falls asleep, is looked at and draws again, several times. With CUDA the model is
Stable Diffusion 1.5 by its configuration (randomly initialised) and the table is kept in `benchmarks/results/`, on a
CPU it is a small one; and on both the demo model. What a process holds is its proportional share of memory (PSS), so
that what it shares with others counts once. Linux only.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from benchmarks import _models, _servers
from benchmarks._machine import Gpu, Machine, Table, look
from benchmarks._servers import Server

IDLE_S = 1.0
SETTLE_S = 2.0
RUNS = 5
SLEEP_DEADLINE_S = 60.0
MB = 10**6


@dataclass(frozen=True)
class OnGpu:
    """What is on the GPU; nothing on a machine without one."""

    processes: int
    used_bytes: int


@dataclass(frozen=True)
class Round:
    """Asleep, woken by a picture, a second one, awake."""

    engines_asleep: int  # engine processes while asleep
    asleep: OnGpu
    asleep_bytes: int  # of the machine's memory: the server's
    first_s: float
    next_s: float
    awake: OnGpu
    awake_bytes: int  # of the machine's memory: the server's and the engine process's


def main() -> None:
    """Prints the table; with a GPU keeps it."""
    machine = look()
    model = _models.SMALL if machine.gpu is None else _models.SD15
    table = Table("engine_process", machine)
    table.line(f"Asleep -> first picture, {RUNS} times (python -m benchmarks.engine_process)\n{machine.heading()}\n")
    with tempfile.TemporaryDirectory() as folder:
        _models.save(model, Path(folder))
        inputs = {
            "num_inference_steps": model.steps,
            "width": model.side_px,
            "height": model.side_px,
            "guidance_scale": model.guidance_scale,
        }
        _measure(table, machine, model.name, {"engine": "diffusers", "model_id": folder}, inputs)
    _measure(table, machine, "the demo model (OpenVINO, CPU)", {"engine": "openvino"}, {})
    table.keep()


def _measure(table: Table, machine: Machine, name: str, config: dict[str, Any], inputs: dict[str, Any]) -> None:
    before = on_gpu(machine.gpu)
    with _servers.inference_server(name, config | {"idle_engine_s": IDLE_S}) as server, requests.Session() as session:
        rounds = [one_round(server, session, machine.gpu, inputs) for _ in range(RUNS)]
    table.line(f"{name}:")
    first_s, next_s = (
        statistics.median(times) for times in ([one.first_s for one in rounds], [one.next_s for one in rounds])
    )
    table.line(f"  asleep -> first picture {first_s:6.2f} s (median; from {_span(one.first_s for one in rounds)})")
    table.line(f"  the next picture        {next_s:6.2f} s (median; from {_span(one.next_s for one in rounds)})")
    asleep_mb = max(one.asleep_bytes for one in rounds) / MB
    awake_mb = max(one.awake_bytes for one in rounds) / MB
    table.line(f"  memory: awake {awake_mb:.0f} MB, asleep {asleep_mb:.0f} MB (the server alone)")
    table.line(f"  engine processes while asleep: {max(one.engines_asleep for one in rounds)}   (goal: none)")
    if machine.gpu is not None:
        _gpu_lines(table, before, rounds)
    table.line("")


def _gpu_lines(table: Table, before: OnGpu, rounds: Sequence[Round]) -> None:
    """Beside what was there before the server: other programs may use the GPU too."""
    awake = max((one.awake for one in rounds), key=lambda found: found.used_bytes)
    asleep = max((one.asleep for one in rounds), key=lambda found: found.used_bytes)
    for name, found in (("awake", awake), ("asleep", asleep)):
        used_mb = (found.used_bytes - before.used_bytes) / MB
        processes = found.processes - before.processes
        goal = "   (goal: none, 0 MB)" if name == "asleep" else ""
        table.line(f"  on the GPU while {name}: {processes} processes, {used_mb:.0f} MB{goal}")


def one_round(server: Server, session: requests.Session, gpu: Gpu | None, inputs: dict[str, Any]) -> Round:
    """Waits until the engine sleeps, and wakes it."""
    _wait_asleep(server)
    engines_asleep, asleep, asleep_bytes = len(server.engine_pids()), on_gpu(gpu), _pss_bytes([server.pid])
    first_s = server.draw(session, inputs | {"prompt": "a red apple", "seed": 1}).wall_s
    next_s = server.draw(session, inputs | {"prompt": "a red apple", "seed": 2}).wall_s
    awake_bytes = _pss_bytes([server.pid, *server.engine_pids()])
    return Round(engines_asleep, asleep, asleep_bytes, first_s, next_s, on_gpu(gpu), awake_bytes)


def _wait_asleep(server: Server) -> None:
    """And a little longer: the end of a process takes the kernel and the driver a moment. Raises: SystemExit."""
    until_s = time.monotonic() + SLEEP_DEADLINE_S
    while server.health()["engine"] != "asleep":
        if time.monotonic() > until_s:
            raise SystemExit(f"{server.name}: the engine was not asleep within {SLEEP_DEADLINE_S:g} s.")
        time.sleep(0.05)
    time.sleep(SETTLE_S)


def on_gpu(gpu: Gpu | None) -> OnGpu:
    """What is on it now; nothing without one."""
    return OnGpu(0, 0) if gpu is None else OnGpu(len(gpu.pids()), gpu.used_bytes)


def _pss_bytes(pids: Sequence[int]) -> int:
    """Source: https://docs.kernel.org/filesystems/proc.html (smaps_rollup)"""
    total_kib = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                total_kib += int(line.split()[1])
    return total_kib * 1024


def _span(values: Any) -> str:
    times = sorted(values)
    return f"{times[0]:.2f} to {times[-1]:.2f}"


if __name__ == "__main__":
    main()
