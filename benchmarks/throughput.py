"""Pictures a second and latency against concurrency, through the real server over HTTP.

Ours with step-level batching, the same server drawing one at a time (max_batch 1), and plain diffusers behind a lock as
upstream has it: three servers, the same clients, in turn in one run, a round for each number of clients. And what the
server itself adds to a single picture of about a second.

With CUDA the model is Stable Diffusion 1.5 by its configuration (randomly initialised), 512x512, 25 steps, guidance
7.5, and the table is kept in `benchmarks/results/`; it takes some 20 GB of GPU memory. On a CPU it is a small model
whose operations are so short that batching saves most of their fixed costs, and the table is printed.
Goals on an H200: at least 10 pictures a second batched, at most 0.16 s for a single one, at least 3 times one at a
time. Anywhere: at most 5 % of a second's picture for the server.
"""

import contextlib
import math
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import requests

from benchmarks import _models, _servers
from benchmarks._machine import Machine, Table, look
from benchmarks._models import Model
from benchmarks._servers import Picture, Server

CONCURRENCIES = (1, 2, 4, 8, 16, 32)
MAX_BATCH = 16
BATCHED, ONE_AT_A_TIME, PLAIN = "ours, batched", "ours, one at a time", "plain diffusers"
GOAL_IMAGES_S, GOAL_SINGLE_S, GOAL_RATIO, GOAL_OVERHEAD = 10.0, 0.16, 3.0, 0.05
SCHEDULER = "DPMSolverMultistepScheduler"  # upstream's default
OVERHEAD_PICTURES = 9
COMPILE_DEADLINE_S = 300.0
# Of the engine's lines on compiling: what ends it well for the model's own size, and what is no use to wait after.
COMPILED = "by the compiled UNet"
NOT_COMPILED = ("without a compiled UNet", "nothing is compiled", "wait for memory")


@dataclass(frozen=True)
class Load:
    """One server under a number of clients that ask again as soon as they are answered."""

    server: str
    clients: int
    wall_s: float
    pictures: Sequence[Picture]

    @property
    def images_s(self) -> float:
        return len(self.pictures) / self.wall_s

    def latency_s(self, percent: int) -> float:
        ordered = sorted(picture.wall_s for picture in self.pictures)
        return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def main() -> None:
    """Prints the table; with a GPU keeps it."""
    machine = look()
    model = _models.SMALL if machine.gpu is None else _models.SD15
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        _models.save(model, Path(folder))
        config = {"engine": "diffusers", "model_id": folder, "limits": {"waiting_requests": {"max": 100}}}
        batched = stack.enter_context(_servers.inference_server(BATCHED, config | {"max_batch": MAX_BATCH}))
        alone = stack.enter_context(_servers.inference_server(ONE_AT_A_TIME, config | {"max_batch": 1}))
        plain = stack.enter_context(_servers.plain_diffusers(PLAIN, Path(folder), machine.device))
        table = Table("throughput", machine)
        _head(table, machine, model)
        servers = (batched, alone, plain)
        _warm_up(servers, model, machine)
        loads: list[Load] = []
        for clients in CONCURRENCIES:
            for server in servers:
                loads.append(drive(server, model, clients, max(8, clients * (4 if machine.gpu else 2))))
                _row(table, loads[-1])
        _goals(table, loads, machine)
        _overhead(table, batched, model)
        for line in batched.compiling_lines():
            table.line(f"The batched server on {line}")
        table.keep()


def _head(table: Table, machine: Machine, model: Model) -> None:
    table.line(
        f"Throughput and latency against the number of clients (python -m benchmarks.throughput)\n{machine.heading()}"
    )
    size = f"{model.side_px}x{model.side_px}, {model.steps} steps, guidance {model.guidance_scale:g}"
    table.line(f"{model.name}, {size}, {SCHEDULER}, at most {MAX_BATCH} at once\n")
    table.line(f"{'clients':>7} {'server':20} {'pictures':>8} {'images/s':>9} {'p50 s':>7} {'p95 s':>7}")


def _row(table: Table, load: Load) -> None:
    figures = f"{load.images_s:9.2f} {load.latency_s(50):7.2f} {load.latency_s(95):7.2f}"
    table.line(f"{load.clients:7} {load.server:20} {len(load.pictures):8} {figures}")


def _draw(server: Server, session: requests.Session, model: Model, seed: int, steps: int | None = None) -> Picture:
    inputs = {
        "prompt": f"a red apple, number {seed}",
        "width": model.side_px,
        "height": model.side_px,
        "num_inference_steps": steps or model.steps,
        "guidance_scale": model.guidance_scale,
        "seed": seed,
    }
    return server.draw(session, inputs, SCHEDULER=SCHEDULER)


def drive(server: Server, model: Model, clients: int, pictures: int) -> Load:
    """`clients` threads ask for `pictures` in all."""
    seeds = iter(range(pictures))
    taken, failures = threading.Lock(), list[BaseException]()
    drawn: list[Picture] = []

    def ask() -> None:
        try:
            with requests.Session() as session:
                while True:
                    with taken:
                        seed = next(seeds, None)
                    if seed is None or failures:
                        return
                    drawn.append(_draw(server, session, model, seed))
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall_s = time.perf_counter() - begin
    if failures:
        raise SystemExit(f"{server.name}, {clients} clients: {failures[0]}")
    return Load(server.name, clients, wall_s, drawn)


def _warm_up(servers: Sequence[Server], model: Model, machine: Machine) -> None:
    """Every batch size twice; in between what a GPU's engine compiles in the background is compiled."""
    for _ in range(2):
        for server in servers:
            for clients in (1, 2, 4, 8, MAX_BATCH) if server.name == BATCHED else (1,):
                drive(server, model, clients, clients)
        for server in servers:
            if machine.gpu is not None and server.name != PLAIN:
                wait_compiled(server)


def wait_compiled(server: Server) -> None:
    """Until its UNet is compiled. Raises: SystemExit when that fails: the table would not show compiled steps."""
    until_s = time.monotonic() + COMPILE_DEADLINE_S
    while True:
        lines = server.compiling_lines()
        if bad := next((line for line in lines if any(words in line for words in NOT_COMPILED)), None):
            raise SystemExit(
                f"{server.name} was to be measured with a compiled UNet, and its engine said: {bad!r}. "
                "Nothing was measured: see to that (g++, free GPU memory), then start the benchmark again."
            )
        if any(COMPILED in line for line in lines):
            return
        if time.monotonic() > until_s:
            raise SystemExit(f"{server.name} still compiles after {COMPILE_DEADLINE_S:g} s.\n{server.log_tail()}")
        time.sleep(0.5)


def _goals(table: Table, loads: Sequence[Load], machine: Machine) -> None:
    def best(server: str) -> float:
        return max(load.images_s for load in loads if load.server == server)

    single = next(load for load in loads if load.server == BATCHED and load.clients == 1)
    batched, alone, plain = best(BATCHED), best(ONE_AT_A_TIME), best(PLAIN)
    table.line("\nAt best, and the goals for an H200:" if machine.gpu else "\nAt best (the goals are for an H200):")
    table.line(f"  {batched:.2f} images/s batched   (goal: at least {GOAL_IMAGES_S:g})")
    table.line(f"  {single.latency_s(50):.3f} s for a single picture   (goal: at most {GOAL_SINGLE_S:g})")
    table.line(f"  {batched / alone:.2f} times one at a time   (goal: at least {GOAL_RATIO:g})")
    table.line(f"  {batched / plain:.2f} times plain diffusers")


def _overhead(table: Table, server: Server, model: Model) -> None:
    """What is not the engine's own time, of a picture with as many steps as take about a second."""
    with requests.Session() as session:
        usual = min((_draw(server, session, model, seed) for seed in range(3)), key=lambda one: one.wall_s)
        steps = max(1, min(250, round(model.steps / usual.inference_s)))
        drawn = [_draw(server, session, model, seed, steps) for seed in range(OVERHEAD_PICTURES)]
    share = statistics.median((picture.wall_s - picture.inference_s) / picture.wall_s for picture in drawn)
    wall_s = statistics.median(picture.wall_s for picture in drawn)
    table.line(f"The server's own part of a single picture of {wall_s:.2f} s ({steps} steps), with all of HTTP:")
    table.line(f"  {share:.1%}   (goal: at most {GOAL_OVERHEAD:.0%})")


if __name__ == "__main__":
    main()
