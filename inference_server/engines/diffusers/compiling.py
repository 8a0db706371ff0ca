"""Compiles the UNet while it draws: a process of its own does the work, this one loads what it made and switches.

Where memory is too short for it just now, it is tried again later. Steps go on meanwhile. The thread here mostly waits;
loading a package takes some tens of ms, and comparing it with the UNet, on a CUDA stream of its own, about as long as
some small steps, once a size. The weights are the UNet's: a package holds none.

The library calls a package with Python's lock held. With CUDA that is as long as the launches take (and nothing once
they are recorded as a graph), but on a CPU it is the whole step: threads that prepare and finish pictures wait for it.
With 5 % less time a step (measured with 4 resolutions, 64 to 256 channels, 256x256 px) it does not pay there.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference_server.engine_child import PACKAGE_PARENT
from inference_server.engines import short_reason
from inference_server.engines.diffusers import cuda_errors
from inference_server.engines.diffusers.gpu_memory import is_free
from inference_server.engines.diffusers.loaded_package import PackageRefusedError, load_package
from inference_server.engines.diffusers.networks import Networks, Size
from inference_server.engines.diffusers.package_cache import PackageCache
from inference_server.engines.diffusers.streams import give_memory_back
from inference_server.engines.diffusers.unet import InputSizes
from inference_server.engines.diffusers.unet_package import PackageOrder, order_for

CHILD = "inference_server.engines.diffusers.compile_child"
COMPILE_TIMEOUT_S = 1800
# The compiling process's CUDA context and the kernels that it tries out; later the comparison of what it made.
NEEDED_DEVICE_BYTES = 2_000_000_000
RETRY_S, MAX_RETRY_S = 60.0, 960.0  # until memory is looked for again; it doubles


class CompileError(Exception):
    """No package came of it; the text says why."""


class NoRoomError(CompileError):
    """Memory was too short for it; that may be otherwise later."""


@dataclass(frozen=True)
class CompilePlan:
    """What to compile, and where to keep it."""

    sizes: tuple[Size, ...]
    max_rows: int
    folder: Path | None  # None: for this process alone


Compile = Callable[[PackageOrder, Path, Path], None]  # order, file to write, folder for what compilers keep


class CompilingThread:
    """Has each size of the plan drawn by a compiled UNet, sooner or later; the log says which and why not."""

    def __init__(
        self,
        unet: Any,
        sizes: InputSizes,
        plan: CompilePlan,
        networks: Networks,
        compile_: Compile | None = None,
        retry_s: float = RETRY_S,
    ) -> None:
        self._unet, self._sizes, self._plan, self._networks = unet, sizes, plan, networks
        self._compile, self._retry_s = compile_ or compile_in_child, retry_s
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """At once; does nothing the second time."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="compiling", daemon=True)
            self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Waits until all sizes are done with; False after the time."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is not None and not self._thread.is_alive()

    def _run(self) -> None:
        if not self._plan.sizes:
            return
        try:
            if self._plan.folder is not None:
                self._serve_all(PackageCache(self._plan.folder))
            else:
                with tempfile.TemporaryDirectory() as folder:
                    self._serve_all(PackageCache(Path(folder)))
        except Exception as exc:
            _say(f"nothing is compiled: {short_reason(exc)}")

    def _serve_all(self, cache: PackageCache) -> None:
        sizes, pause_s = self._plan.sizes, self._retry_s
        with cache.scratch() as scratch, cache.compilers_own() as kept:  # sizes have much in common
            while sizes := tuple(size for size in sizes if not self._is_done(size, cache, Path(scratch), kept)):
                _say(f"it is tried again in {pause_s:g} s")
                time.sleep(pause_s)  # nothing tells when memory becomes free
                pause_s = min(MAX_RETRY_S, 2 * pause_s)

    def _is_done(self, size: Size, cache: PackageCache, scratch: Path, kept: Path) -> bool:
        """Whether it is compiled, or cannot be; False when memory was too short just now."""
        told = f"{size[0]}x{size[1]} px"
        try:
            self._serve(size, cache, scratch, kept)
        except Exception as exc:
            if isinstance(exc, NoRoomError) or cuda_errors.is_out_of_memory(exc):
                _say(f"{told} wait for memory: {short_reason(exc)}")
                return False
            _say(f"{told} are drawn without a compiled UNet: {short_reason(exc)}")
        return True

    def _serve(self, size: Size, cache: PackageCache, scratch: Path, kept: Path) -> None:
        """Raises: CompileError, PackageRefusedError, torch.OutOfMemoryError, OSError."""
        device = self._sizes.device
        if device.type == "cuda" and not is_free(device, NEEDED_DEVICE_BYTES):
            raise NoRoomError(f"that takes {NEEDED_DEVICE_BYTES / 1e9:.0f} GB of the GPU for a while, less is free")
        order = order_for(self._unet, self._sizes, *size, self._plan.max_rows)
        if cache.find(order.digest) is not None:
            try:
                return self._adopt(size, order, cache)
            except PackageRefusedError as exc:
                _say(f"a package of the compile cache is of no use, it is made anew: {exc}")
        started_s, made = time.monotonic(), scratch / f"{order.digest}.pt2"
        self._compile(order, made, kept)
        cache.put(order.digest, made)
        _say(f"compiled {size[0]}x{size[1]} px in {time.monotonic() - started_s:.0f} s")
        self._adopt(size, order, cache)

    def _adopt(self, size: Size, order: PackageOrder, cache: PackageCache) -> None:
        """Raises: PackageRefusedError; the package is then gone from the cache. What the device raises."""
        network = load_package(order, cache, self._unet, self._networks.eager)
        give_memory_back()  # what the comparison took
        self._networks.adopt(size, network)
        _say(f"{size[0]}x{size[1]} px are drawn by the compiled UNet from here on")


def compile_in_child(order: PackageOrder, file: Path, kept: Path) -> None:
    """Raises: CompileError, NoRoomError."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", CHILD, str(os.getpid()), str(file)],
            input=order.model_dump_json(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, **_child_environment(kept)},
            timeout=COMPILE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CompileError(f"the compiler was not done after {COMPILE_TIMEOUT_S} s") from None
    if done.returncode != 0 or not file.is_file():
        lines = done.stderr.strip().splitlines()
        told = lines[-1][:500] if lines else "no word"
        error = NoRoomError if "out of memory" in told else CompileError
        raise error(f"the compiler ended with {done.returncode}: {told}")


def _child_environment(kept: Path) -> dict[str, str]:
    """It finds this package, and all that the compilers leave behind goes to `kept`."""
    python_path = os.pathsep.join(filter(None, (str(PACKAGE_PARENT), os.environ.get("PYTHONPATH"))))
    folders = {"TORCHINDUCTOR_CACHE_DIR": str(kept / "inductor"), "TRITON_CACHE_DIR": str(kept / "triton")}
    return {"PYTHONPATH": python_path, **folders, **_cuda_headers()}


def _cuda_headers() -> dict[str, str]:
    """Where pip put CUDA's headers, for a machine without a toolkit."""
    if "CUDA_HOME" in os.environ or Path("/usr/local/cuda").exists():
        return {}
    headers = (file for folder in sys.path for file in Path(folder).glob("nvidia/cu*/include/cuda.h"))
    found = next(headers, None)
    return {} if found is None else {"CUDA_HOME": str(found.parent.parent)}


def _say(text: str) -> None:
    print(f"compiling: {text}", flush=True)
