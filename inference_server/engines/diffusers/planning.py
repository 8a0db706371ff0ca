"""Asks the machine what it has, the planner what to do with it, and says what else would fit where a model does not."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from inference_server.engine_config import EngineConfig
from inference_server.engines import ModelLoadError
from inference_server.engines.diffusers import gpu_memory, memory_plan, model_file, placing, weights
from inference_server.engines.diffusers.memory_plan import (
    EVERYTHING,
    Memory,
    MemoryPlan,
    ModelSize,
    NoPlanError,
    Quantisation,
)
from inference_server.engines.diffusers.published_sizes import fitting_model
from inference_server.engines.model_folder import FoundModel

MEMORY_FILE = Path("/proc/meminfo")


class UnfitModelError(ModelLoadError):
    """The model does not fit on this card in any way that is allowed."""

    permanent = True


Read = Callable[[torch.device], Memory]


def choose(
    config: EngineConfig,
    found: FoundModel,
    index: Mapping[str, Any],
    size: ModelSize,
    device: torch.device,
    read: Read | None = None,
) -> MemoryPlan:
    """The plan for this model on this device now. Raises: UnfitModelError, GpuBusyError."""
    asked = config.memory_plan
    if device.type != "cuda":
        return replace(EVERYTHING, quantisation="fp8") if asked == "fp8" else EVERYTHING
    memory = (read or read_memory)(device)
    quantisations: tuple[Quantisation, ...] = placing.quantisations()
    comes_as_gguf = (config.model_file or "").lower().endswith(model_file.GGUF)
    if comes_as_gguf or (found.folder.is_dir() and weights.is_quantised(found.folder, index)):
        quantisations = ("none",)  # it is as small as it gets
    try:
        return memory_plan.choose(size, memory, asked, quantisations)
    except NoPlanError as exc:
        if 0 < exc.needed_bytes <= memory.total_bytes:
            gpu_memory.require_free(device, exc.needed_bytes)
        raise UnfitModelError(f"{found.name} does not fit: {exc}. {_advice(memory)}") from exc


def _advice(memory: Memory) -> str:
    fitting = fitting_model(replace(memory, free_bytes=None))
    return f"On this card {fitting} fits" if fitting else "No model that is known here fits on this card"


def fits(size: ModelSize, dtype: torch.dtype, device: torch.device, read: Read | None = None) -> bool:
    """Whether the model, loaded already, would fit in another precision, as it is."""
    if device.type != "cuda":
        return True
    scaled = {name: part * int(dtype.itemsize) // size.itemsize for name, part in size.parts.items()}
    other = replace(size, parts=scaled, itemsize=int(dtype.itemsize))
    try:
        memory_plan.choose(other, replace((read or read_memory)(device), free_bytes=None), "full")
    except NoPlanError:
        return False
    return True


def read_memory(device: torch.device) -> Memory:
    found = gpu_memory.read_gpu_memory(device)
    return Memory(found.total_bytes, found.free_bytes, host_bytes())


def host_bytes(file: Path = MEMORY_FILE) -> int | None:
    """What programs can have of the machine's own memory without swapping. Source: man 5 proc (MemAvailable)"""
    try:
        rows = dict(line.split(":", 1) for line in file.read_text(encoding="ascii").splitlines() if ":" in line)
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
