"""Tells a GPU that others use from one that is too small for the model: before loading, and after a failure.

After a failure too, because somebody may start a game between the first look and the first picture.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from inference_server.engines import ModelLoadError
from inference_server.engines.diffusers import cuda_errors
from inference_server.engines.diffusers.memory_plan import CONTEXT_BYTES


class GpuBusyError(ModelLoadError):
    """Other programs hold the GPU's memory; it may well be free later."""

    code = "GPU_BUSY"


@dataclass(frozen=True)
class Holder:
    """A process that has memory on the GPU."""

    pid: int
    used_bytes: int | None  # None: the driver does not tell


@dataclass(frozen=True)
class GpuMemory:
    """The GPU's memory at one moment."""

    total_bytes: int
    free_bytes: int | None  # None: nobody can tell
    holders: tuple[Holder, ...] = ()  # without this process; empty also where the driver does not tell


Probe = Callable[[torch.device], GpuMemory]


def read_gpu_memory(device: torch.device) -> GpuMemory:
    """From the driver (NVML), or from CUDA where that fails; CUDA knows no holders."""
    try:
        return _from_nvml(device)
    except Exception:  # not installed, another driver's version, a container without it
        return _from_cuda(device)


def _from_cuda(device: torch.device) -> GpuMemory:
    try:
        free, total = torch.cuda.mem_get_info(device)
    except Exception:  # some virtual cards tell nothing
        return GpuMemory(torch.cuda.get_device_properties(device).total_memory, None)
    return GpuMemory(total, free)


def require_free(device: torch.device, needed_bytes: int, probe: Probe = read_gpu_memory) -> None:
    """Raises: GpuBusyError when others hold so much of the memory that a model that needs this much has no room."""
    memory = probe(device)
    if memory.free_bytes is not None and memory.free_bytes < needed_bytes:
        raise _busy(memory, memory.free_bytes, needed_bytes)


@contextlib.contextmanager
def others_may_be_to_blame(
    device: torch.device,
    needed_bytes: int,
    probe: Probe = read_gpu_memory,
    own_bytes: Callable[[torch.device], int] | None = None,
) -> Iterator[None]:
    """Wraps the loading and the first picture of a model that needs `needed_bytes`. Does nothing on a CPU.

    `own_bytes`: what this process holds of the GPU's memory.

    Raises: GpuBusyError where memory was short and others hold what was free before; else what the block raised.
    """
    try:
        yield
    except Exception as exc:
        if device.type != "cuda" or not _was_short(exc):
            raise
        memory = probe(device)
        if memory.free_bytes is None:
            raise
        without_us = memory.free_bytes + (own_bytes or _own_bytes)(device)
        if without_us >= needed_bytes:
            raise
        raise _busy(memory, without_us, needed_bytes) from exc


def _was_short(exc: BaseException | None) -> bool:
    return exc is not None and (cuda_errors.is_out_of_memory(exc) or _was_short(exc.__cause__))


def _own_bytes(device: torch.device) -> int:
    return int(torch.cuda.memory_reserved(device)) + CONTEXT_BYTES


def _busy(memory: GpuMemory, free_bytes: int, needed_bytes: int) -> GpuBusyError:
    return GpuBusyError(
        f"gpu-busy: {_gb(free_bytes)} of the GPU's {_gb(memory.total_bytes)} are free, the model needs "
        f"about {_gb(needed_bytes)}. {_holders(memory.holders)} Close what uses the GPU, or ask again later"
    )


def is_free(
    device: torch.device,
    needed_bytes: int,
    probe: Probe = read_gpu_memory,
    unused_bytes: Callable[[torch.device], int] | None = None,
) -> bool:
    """Whether that much can be had now; what this process's own allocator keeps unused counts as free."""
    free_bytes = probe(device).free_bytes
    return free_bytes is None or free_bytes + (unused_bytes or _unused_bytes)(device) >= needed_bytes


def _unused_bytes(device: torch.device) -> int:
    return int(torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def _holders(holders: tuple[Holder, ...]) -> str:
    """Names processes by id alone: their command lines may hold secrets."""
    if not holders:
        return "The driver does not say which processes hold the rest."
    sizes = ("an unknown part" if one.used_bytes is None else _gb(one.used_bytes) for one in holders)
    return "; ".join(f"Process {one.pid} holds {size}" for one, size in zip(holders, sizes, strict=True)) + "."


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _from_nvml(device: torch.device) -> GpuMemory:
    """Asks without a CUDA context. Raises: whatever pynvml raises.

    Source: https://docs.nvidia.com/deploy/nvml-api (device queries)
    """
    import pynvml

    with _nvml(pynvml):
        handle = _handle(pynvml, device)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        running = [
            *pynvml.nvmlDeviceGetComputeRunningProcesses(handle),
            *pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle),
        ]
    used = {process.pid: process.usedGpuMemory for process in running if process.pid != os.getpid()}
    return GpuMemory(memory.total, memory.free, tuple(Holder(pid, size) for pid, size in used.items()))


@contextlib.contextmanager
def _nvml(pynvml: Any) -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _handle(pynvml: Any, device: torch.device) -> Any:
    """Found by the UUID that CUDA tells: CUDA_VISIBLE_DEVICES and CUDA's own order change its number."""
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
    except pynvml.NVMLError:
        return pynvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")
