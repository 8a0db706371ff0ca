"""The parts of `make gpu-check`. Each runs in a process of its own, prints its lines, and tells what did not hold.

A line that begins with FAILED is a check that did not hold, one with MISSED a goal that was not reached.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import requests
import torch

from benchmarks import _gpu_models, _models, _servers, engine_process, throughput
from benchmarks._machine import Machine, look
from benchmarks._orders import OrdersChannel
from inference_server.engine_config import EngineConfig
from inference_server.engines.diffusers import cuda_errors
from inference_server.engines.diffusers.engine import DiffusersEngine
from inference_server.messages import Draw, GenerationParams

GOAL_IMAGES_S, GOAL_SINGLE_S, GOAL_RATIO, GOAL_OVERHEAD, GOAL_KLEIN_S = 10.0, 0.16, 3.0, 0.05, 0.50
EQUAL_OF_255 = 2
MB = 10**6


@dataclass(frozen=True)
class Setting:
    """What the parts run on. `tiny`: the same code with models that a CPU draws in milliseconds."""

    device: str
    tiny: bool

    @property
    def model(self) -> _models.Model:
        return _models.SMALL if self.tiny else _models.SD15


def equal(setting: Setting) -> None:
    """Loads each model, draws seeds alone and in company, and compares."""
    for name in _gpu_models.MODELS:
        with tempfile.TemporaryDirectory() as folder:
            began_s = time.perf_counter()
            _gpu_models.save(name, Path(folder), tiny=setting.tiny)
            saved_s = time.perf_counter() - began_s
            # What the UNets share must add up in fp32; the others draw in the precision of their family.
            precision = "fp32" if name in ("sd15", "sdxl") else None
            began_s = time.perf_counter()
            engine = _engine(folder, setting, precision)
            loaded_s = time.perf_counter() - began_s
            orders = [_order(engine, number, steps=3 + number % 2) for number in range(4)]
            together = _draw(engine, orders)
            worst = max(int(np.abs(together[one.number] - _draw(engine, [one])[one.number]).max()) for one in orders)
        print(
            f"{name:8} {engine.model_info.pipeline:26} made {saved_s:5.1f} s, loaded {loaded_s:5.1f} s; "
            f"alone and in company differ by {worst}/255 (goal: at most {EQUAL_OF_255})"
        )
        if worst > EQUAL_OF_255:
            print(f"FAILED: {name} in company differs by {worst}/255")
        del engine
        _forget()


def memory(setting: Setting) -> None:
    """Provokes a lack of memory: sixteen at once find room for a few. They are drawn or refused; then one is drawn."""
    with _saved(setting) as folder:
        engine = _engine(folder, setting)
        lifted = _narrow(engine, setting)
        orders = [_order(engine, number, steps=2) for number in range(16)]
        channel = OrdersChannel(orders)
        engine.work(channel)
        short = [one for one in channel.failures.values() if one.startswith(cuda_errors.MEMORY_SHORT)]
        provoked = lifted()
        print(f"memory   {len(channel.pictures)} of 16 drawn, {len(short)} refused for memory; lacks met: {provoked}")
        if len(channel.pictures) + len(short) != 16 or not provoked:
            print(f"FAILED: 16 drawings with too little memory: {sorted(set(channel.failures.values()))[:3]}")
        _draw(engine, [_order(engine, 99, steps=2)])
        print("memory   a drawing afterwards is drawn")


def sticky(setting: Setting) -> None:
    """Provokes an error after which the device is lost to the process; and a server whose engine process is killed."""
    with _saved(setting) as folder:
        with _servers.inference_server("ours", _config(folder, setting)) as server, requests.Session() as session:
            _small_picture(server, session, setting)
            before = server.engine_pids()
            for pid in before:
                _servers.kill(pid)
            _after_loss(server, session, setting)
            print(f"sticky   after its end the engine process {before} was replaced by {server.engine_pids()}")
        engine = _engine(folder, setting)
        _break(engine, setting)
        try:
            engine.work(OrdersChannel([_order(engine, 1, steps=1)]))
        except Exception as exc:
            told = type(exc).__name__
            print(f"sticky   {told} ends the engine process: {cuda_errors.is_fatal(exc)}")
            if not cuda_errors.is_fatal(exc):
                print(f"FAILED: {told} does not end the engine process")
        else:
            print("FAILED: a sticky error did not end the engine process")


def asleep(setting: Setting) -> None:
    """What the GPU holds of ours while the engine sleeps."""
    gpu = look().gpu if setting.device == "cuda" else None
    inputs = _inputs(setting)
    with _saved(setting) as folder:
        before = engine_process.on_gpu(gpu)
        config = _config(folder, setting) | {"idle_engine_s": 1.0, "compile_sizes": []}
        with _servers.inference_server("ours", config) as server, requests.Session() as session:
            one = engine_process.one_round(server, session, gpu, inputs)
    held = one.asleep.used_bytes - before.used_bytes
    print(
        f"asleep   {one.engines_asleep} engine processes, {held // 2**20} MiB on the GPU (goal: 0); "
        f"awake {(one.awake.used_bytes - before.used_bytes) // 2**20} MiB; woken by a picture in {one.first_s:.1f} s"
    )
    if one.engines_asleep or held > 0:
        print("FAILED: asleep is not empty")


def table(setting: Setting) -> None:
    """The throughput table: ours, its kernels one at a time, plain diffusers eager and compiled."""
    machine = look() if setting.device == "cuda" else Machine(None)
    with _saved(setting) as folder, ExitStack() as stack:
        config = _config(folder, setting) | {"limits": {"waiting_requests": {"max": 100}}}
        ours = stack.enter_context(_servers.inference_server("ours", config))
        for clients in (1, 2, 4, 8, 16):
            throughput.drive(ours, setting.model, clients, clients)
        if machine.gpu is not None:
            throughput.wait_compiled(ours)
            for clients in (1, 2, 4, 8, 16):  # CUDA graphs of the compiled one
                throughput.drive(ours, setting.model, clients, 2 * clients)
        print(f"{'clients':>7} {'server':34} {'images/s':>9} {'p50 s':>7} {'p95 s':>7}")
        best = 0.0
        for clients in (1, 2, 4, 8, 16, 32):
            load = throughput.drive(ours, setting.model, clients, clients if setting.tiny else max(8, 2 * clients))
            best = max(best, load.images_s)
            if clients == 1:
                alone = load
            _row("ours", load)
        _row("ours, the same kernels one at a time", alone)
        overhead = statistics.median((one.wall_s - one.inference_s) / one.wall_s for one in alone.pictures)
    with _saved(setting) as folder:
        for name, compiled in (("plain diffusers, eager", False), ("plain diffusers, compiled", True)):
            with _servers.plain_diffusers(name, Path(folder), setting.device, compiled=compiled) as plain:
                throughput.drive(plain, setting.model, 1, 1)
                load = throughput.drive(plain, setting.model, 1, 2 if setting.tiny else 8)
                _row(name, load)
                if not compiled:
                    eager = load
    single_s = alone.latency_s(50)
    missed = [
        _goal("images/s at best", best, GOAL_IMAGES_S, at_least=True),
        _goal("s for one", single_s, GOAL_SINGLE_S, at_least=False),
        _goal("times plain diffusers one at a time", best / eager.images_s, GOAL_RATIO, at_least=True),
        _goal("of a picture's time is the server's", overhead, GOAL_OVERHEAD, at_least=False),
    ]
    if any(missed):
        with _saved(setting) as folder:
            engine = _engine(folder, setting)
            _profile(lambda: _draw(engine, [_order(engine, 1, steps=4)]), setting)


def klein(setting: Setting) -> None:
    """FLUX.2-klein-4B's shape at full size: 4 steps, 1024x1024, by its own call, as the engine draws it."""
    torch.set_default_dtype(torch.float32 if setting.tiny else torch.bfloat16)
    side = 64 if setting.tiny else 1024
    with torch.device(setting.device), torch.inference_mode():
        pipeline = _gpu_models.klein(tiny=setting.tiny)
    pipeline.to(setting.device).set_progress_bar_config(disable=True)

    def draw() -> None:
        pipeline(prompt="a red apple", height=side, width=side, num_inference_steps=4, guidance_scale=1.0)
        _synchronize(setting)

    with torch.inference_mode():
        draw()
        times = [_timed(draw) for _ in range(3)]
        if _goal(f"s for one of {side}x{side} px, 4 steps", min(times), GOAL_KLEIN_S, at_least=False):
            _profile(draw, setting)


PARTS: dict[str, Callable[[Setting], None]] = {
    "equal": equal,
    "memory": memory,
    "sticky": sticky,
    "asleep": asleep,
    "table": table,
    "klein": klein,
}


def _goal(what: str, figure: float, goal: float, *, at_least: bool) -> bool:
    """Tells a figure beside its goal; whether it missed."""
    missed = figure < goal if at_least else figure > goal
    words = "at least" if at_least else "at most"
    print(f"{'MISSED: ' if missed else ''}{figure:.3f} {what} (goal: {words} {goal:g})")
    return missed


def _profile(draw: Callable[[], Any], setting: Setting) -> None:
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.device == "cuda" else [])]
    with profile(activities=activities) as profiler:
        draw()
        _synchronize(setting)
    print(profiler.key_averages().table(sort_by=f"self_{setting.device}_time_total", row_limit=10))


def _row(name: str, load: throughput.Load) -> None:
    figures = f"{load.images_s:9.2f} {load.latency_s(50):7.2f} {load.latency_s(95):7.2f}"
    print(f"{load.clients:7} {name:36} {figures}", flush=True)


def _saved(setting: Setting) -> Any:
    """A temporary folder with SD 1.5's shape in it."""
    folder = tempfile.TemporaryDirectory()
    _models.save(setting.model, Path(folder.name))
    return folder


def _config(folder: str, setting: Setting) -> dict[str, Any]:
    return {"engine": "diffusers", "model_id": folder, "device": setting.device}


def _engine(folder: str, setting: Setting, precision: str | None = None) -> DiffusersEngine:
    more = {} if precision is None else {"model_precision": precision}
    config = EngineConfig.model_validate(_config(folder, setting) | more | {"compile_sizes": []})
    return DiffusersEngine(config, lambda stage: None)


def _order(engine: DiffusersEngine, number: int, steps: int) -> Draw:
    info = engine.model_info
    params = GenerationParams(
        prompt=f"picture {number}",
        negative_prompt="",
        width_px=min(512, info.width_px),
        height_px=min(512, info.height_px),
        num_inference_steps=steps,
        guidance_scale=info.guidance_scale,
        scheduler=info.scheduler,
        seeds=(number,),
    )
    return Draw(number, params)


def _draw(engine: DiffusersEngine, orders: list[Draw]) -> dict[int, Any]:
    """Raises: SystemExit, where one of them was not drawn."""
    channel = OrdersChannel(orders)
    engine.work(channel)
    if channel.failures:
        raise SystemExit(f"{engine.model_info.pipeline} did not draw: {channel.failures}")
    return channel.pictures


def _narrow(engine: DiffusersEngine, setting: Setting) -> Callable[[], int]:
    """Leaves room for few at once; the answer gives it back and tells how often it was too little."""
    unet = engine._loaded.pipeline.unet
    forward, lacks = unet.forward, [0]

    def counted(sample: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        if setting.device != "cuda" and len(sample) > 4:
            lacks[0] += 1
            raise torch.OutOfMemoryError("out of memory, as this check wants it")
        try:
            return forward(sample, *arguments, **named)
        except torch.OutOfMemoryError:
            lacks[0] += 1
            raise

    unet.forward = counted
    if setting.device == "cuda":
        torch.cuda.empty_cache()
        room = torch.cuda.memory_allocated() + 600 * MB
        torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)

    def lift() -> int:
        unet.forward = forward
        if setting.device == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)
        return lacks[0]

    return lift


def _break(engine: DiffusersEngine, setting: Setting) -> None:
    """The next step reads far outside a tensor, which the device asserts; a CPU raises what CUDA would."""

    def broken(*arguments: Any, **named: Any) -> Any:
        if setting.device == "cuda":
            torch.zeros(1, device="cuda")[torch.tensor([10**6], device="cuda")]
            torch.cuda.synchronize()
        raise RuntimeError("CUDA error: device-side assert triggered")

    engine._loaded.pipeline.unet.forward = broken


def _inputs(setting: Setting) -> dict[str, Any]:
    side = setting.model.side_px
    return {"num_inference_steps": 4, "width": side, "height": side, "guidance_scale": setting.model.guidance_scale}


def _small_picture(server: _servers.Server, session: requests.Session, setting: Setting) -> None:
    server.draw(session, _inputs(setting) | {"prompt": "a red apple", "seed": 1})


def _after_loss(server: _servers.Server, session: requests.Session, setting: Setting) -> None:
    """The server tells a lost engine for a moment; within two minutes it draws. Raises: SystemExit."""
    until_s = time.monotonic() + 120
    while True:
        try:
            return _small_picture(server, session, setting)
        except SystemExit:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.5)


def _timed(draw: Callable[[], None]) -> float:
    began_s = time.perf_counter()
    draw()
    return time.perf_counter() - began_s


def _synchronize(setting: Setting) -> None:
    if setting.device == "cuda":
        torch.cuda.synchronize()


def _forget() -> None:
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
