"""What a benchmark runs on, and where its table goes: with a GPU also into `benchmarks/results/`, to be kept."""

import datetime
import os
import platform
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Gpu:
    """The first GPU that CUDA may use, through NVIDIA's management library: asking takes none of the GPU's memory."""

    name: str
    driver: str
    library: Any
    handle: Any

    @property
    def used_bytes(self) -> int:
        return int(self.library.nvmlDeviceGetMemoryInfo(self.handle).used)

    def pids(self) -> set[int]:
        """The processes that have a context on it, as numbered where the driver runs."""
        return {int(one.pid) for one in self.library.nvmlDeviceGetComputeRunningProcesses(self.handle)}


@dataclass(frozen=True)
class Machine:
    """`gpu` is None where PyTorch finds no CUDA."""

    gpu: Gpu | None

    @property
    def device(self) -> str:
        return "cpu" if self.gpu is None else "cuda"

    def heading(self) -> str:
        """Date, hardware, versions."""
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        hardware = f"{os.cpu_count()} cores of {platform.machine()}"
        if self.gpu is not None:
            hardware = f"{self.gpu.name}, driver {self.gpu.driver}; {hardware}"
        versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers"))
        return f"{today}; {hardware}; Python {platform.python_version()}, {versions}"


def look() -> Machine:
    """Whether PyTorch finds CUDA, and what its first GPU is."""
    import torch

    if not torch.cuda.is_available():
        return Machine(None)
    import pynvml

    pynvml.nvmlInit()
    handle = first_handle(pynvml, os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    return Machine(Gpu(pynvml.nvmlDeviceGetName(handle), pynvml.nvmlSystemGetDriverVersion(), pynvml, handle))


def first_handle(nvml: Any, visible: str) -> Any:
    """The library's handle of the first device in CUDA_VISIBLE_DEVICES: a number, or a GPU's or a MIG slice's name."""
    first = visible.partition(",")[0].strip()
    if first.isdigit() or not first:
        return nvml.nvmlDeviceGetHandleByIndex(int(first or 0))
    return nvml.nvmlDeviceGetHandleByUUID(first)


class Table:
    """Lines that are printed as they come, and kept."""

    def __init__(self, benchmark: str, machine: Machine) -> None:
        self._benchmark, self._machine = benchmark, machine
        self._lines: list[str] = []

    def line(self, text: str) -> None:
        print(text, flush=True)
        self._lines.append(text)

    def holds(self, word: str) -> bool:
        """Whether a line begins with it."""
        return any(line.startswith(word) for line in self._lines)

    def keep(self) -> None:
        """On a GPU writes the table to `benchmarks/results/BENCHMARK-GPU-DATE.txt`; on a CPU it was only printed."""
        gpu = self._machine.gpu
        if gpu is None:
            return
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        name = re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-")
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self._benchmark}-{name}-{today}.txt"
        path.write_text("\n".join(self._lines) + "\n", encoding="utf-8")
        print(f"kept in {path}")
