"""Compiles the UNet while it draws: another process compiles, a thread here loads the result, steps switch to it.

Where memory is too short to compile, the thread tries again later; steps go on meanwhile. The thread mostly waits.
Loading a package takes some tens of ms. Comparing it with the UNet, on a CUDA stream of its own, takes about as long as
some small steps, once a size. The weights are the UNet's: a package holds none.

PyTorch calls a package with Python's lock held. With CUDA that is as long as the launches take (and nothing once a CUDA
graph holds them), but on a CPU it is the whole step: the threads that encode and decode wait for it. With 5 % less time
a step (measured with 4 resolutions, 64 to 256 channels, 256x256 px) it does not pay there.
"""

import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from inference_server.engine_config import EngineConfig
from inference_server.engines import short_reason
from inference_server.engines.diffusers import cuda_errors
from inference_server.engines.diffusers.compile_child import (
    CompileError,
    MissingToolsError,
    NoRoomError,
    compile_in_child,
)
from inference_server.engines.diffusers.cuda_graphs import CudaCapture, CudaGraphs
from inference_server.engines.diffusers.gpu_memory import is_free
from inference_server.engines.diffusers.loaded_package import PackageRefusedError, load_package
from inference_server.engines.diffusers.loras import AdapterSwitch
from inference_server.engines.diffusers.streams import empty_cache
from inference_server.engines.diffusers.unet import (
    BatchShape,
    EagerUNet,
    InputSizes,
    Networks,
    Size,
    UNetInputs,
    UNetRunner,
)
from inference_server.engines.diffusers.unet_package import PackageOrder, order_for
from inference_server.engines.package_cache import OLD_S, PackageCache
from inference_server.messages import ModelInfo

# The compiling process's CUDA context and the kernels that it tries out; later the comparison of what it made.
NEEDED_DEVICE_BYTES = 2_000_000_000
RETRY_S, MAX_RETRY_S = 60.0, 960.0  # until memory is looked for again; it doubles


def make_runner(
    unet: Any, sizes: InputSizes, config: EngineConfig, info: ModelInfo, switch: AdapterSwitch | None = None
) -> UNetRunner:
    """The UNet as it is on a CPU, unless sizes to compile are named (see above on what that costs there)."""
    cuda = sizes.device.type == "cuda"
    chosen = sizes_to_compile(config, info)
    if not cuda and not chosen:
        return EagerUNet(unet, sizes, switch)
    folder = None if config.compile_cache is None else Path(config.compile_cache)
    plan = CompilePlan(chosen, max_rows=2 * info.images_at_once, folder=folder)
    return CompilingUNet(unet, sizes, plan, CudaGraphs(CudaCapture(sizes.device)) if cuda else None, switch)


def sizes_to_compile(config: EngineConfig, info: ModelInfo) -> tuple[Size, ...]:
    """The named ones; where none are named, a GPU compiles the model's own size."""
    if config.compile_sizes is not None:
        return config.compile_sizes
    return ((info.width_px, info.height_px),) if info.gpu else ()


@dataclass(frozen=True)
class CompilePlan:
    """What to compile, and where to keep it."""

    sizes: tuple[Size, ...]
    max_rows: int
    folder: Path | None  # None: for this process alone


class CompilingUNet:
    """A runner that starts with the UNet as it is; its sizes are drawn compiled, and by CUDA graphs, once possible."""

    def __init__(
        self,
        unet: Any,
        sizes: InputSizes,
        plan: CompilePlan,
        graphs: CudaGraphs | None,
        switch: AdapterSwitch | None = None,
    ) -> None:
        self._eager, self._graphs = EagerUNet(unet, sizes), graphs
        self._networks = Networks(unet, switch)
        self._compiling = CompilingThread(unet, sizes, plan, self._networks)

    def inputs(self, shape: BatchShape) -> UNetInputs:
        return self._eager.inputs(shape)

    def run(self, shape: BatchShape, inputs: UNetInputs) -> torch.Tensor:
        self._compiling.start()  # with the first step, so that loading a model does not take longer
        network = self._networks.of(shape)
        return network(inputs) if self._graphs is None else self._graphs.run(shape, inputs, network)

    def forget(self, shape: BatchShape | None = None) -> None:
        self._eager.forget(shape)
        if self._graphs is not None:
            self._graphs.forget(shape)


Compile = Callable[[PackageOrder, Path, Path], None]  # order, file to write, the compilers' own cache


class CompilingThread:
    """Compiles each size of the plan, sooner or later; the log says which, and why others are not."""

    def __init__(
        self,
        unet: Any,
        sizes: InputSizes,
        plan: CompilePlan,
        networks: Networks,
        compile_: Compile = compile_in_child,
        retry_s: float = RETRY_S,
    ) -> None:
        self._unet, self._sizes, self._plan, self._networks = unet, sizes, plan, networks
        self._compile, self._retry_s = compile_, retry_s
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Does nothing the second time."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="compiling", daemon=True)
            self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Waits until no size is left; False after the time."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is not None and not self._thread.is_alive()

    def _run(self) -> None:
        if not self._plan.sizes:
            return
        try:
            if self._plan.folder is not None:
                self._compile_all(PackageCache(self._plan.folder))
            else:
                with tempfile.TemporaryDirectory() as folder:
                    self._compile_all(PackageCache(Path(folder)))
        except Exception as exc:
            _say(f"nothing is compiled: {short_reason(exc)}")

    def _compile_all(self, cache: PackageCache) -> None:
        sizes, pause_s = self._plan.sizes, self._retry_s
        with cache.scratch() as scratch, cache.compiler_cache() as compiler_cache:  # sizes share much
            folders = Path(scratch), compiler_cache
            while sizes := tuple(size for size in sizes if not self._is_done(size, cache, *folders)):
                _say(f"it is tried again in {pause_s:g} s")
                time.sleep(pause_s)  # nothing tells when memory becomes free
                pause_s = min(MAX_RETRY_S, 2 * pause_s)

    def _is_done(self, size: Size, cache: PackageCache, scratch: Path, compiler_cache: Path) -> bool:
        """Whether it is compiled, or cannot be; False when memory was too short just now."""
        told = f"{size[0]}x{size[1]} px"
        try:
            self._compile_size(size, cache, scratch, compiler_cache)
        except Exception as exc:
            if isinstance(exc, NoRoomError) or cuda_errors.is_out_of_memory(exc):
                _say(f"{told} wait for memory: {short_reason(exc)}")
                return False
            _say(f"{told} are drawn without a compiled UNet: {short_reason(exc)}")
        return True

    def _compile_size(self, size: Size, cache: PackageCache, scratch: Path, compiler_cache: Path) -> None:
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
        if (failure := cache.failure(order.digest)) is not None:
            raise CompileError(f"that failed in the last {OLD_S // 86400} days, with: {failure}")
        started_s, made = time.monotonic(), scratch / f"{order.digest}.pt2"
        try:
            self._compile(order, made, compiler_cache)
            cache.put(order.digest, made)
            _say(f"compiled {size[0]}x{size[1]} px in {time.monotonic() - started_s:.0f} s")
            self._adopt(size, order, cache)
        except (CompileError, PackageRefusedError) as exc:
            if not isinstance(exc, NoRoomError | MissingToolsError):
                cache.note_failure(order.digest, str(exc))
            raise

    def _adopt(self, size: Size, order: PackageOrder, cache: PackageCache) -> None:
        """Loads the package and draws with it.

        Raises: PackageRefusedError, the package is then gone from the cache; what the device raises.
        """
        network = load_package(order, cache, self._unet, self._networks.eager)
        empty_cache()  # what the comparison took
        self._networks.adopt(size, network)
        _say(f"{size[0]}x{size[1]} px are drawn by the compiled UNet from here on")


def _say(text: str) -> None:
    print(f"compiling: {text}", flush=True)
