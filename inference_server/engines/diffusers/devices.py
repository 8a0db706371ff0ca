"""Finds the device to draw on, and says at the first look why a GPU that is there cannot be used.

Nothing falls silently to the CPU: where NVIDIA's driver is loaded and PyTorch reaches no GPU, that is an error unless
the CPU was asked for.
Source: https://docs.nvidia.com/cuda/cuda-toolkit-release-notes (drivers that each CUDA needs)
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from inference_server.engines import ModelLoadError, gpu_probe, short_reason
from inference_server.messages import NO_GPU

DRIVER_FILE = Path("/proc/driver/nvidia/version")  # there while NVIDIA's kernel module is loaded
NEEDED_DRIVERS = {11: 450, 12: 525, 13: 580}  # by CUDA's major version
BF16_CAPABILITY = (8, 0)  # Ampere; older cards emulate it, slowly


class NoGpuError(ModelLoadError):
    """There should be a GPU, and this process reaches none; a new container may."""

    code = NO_GPU


class UnfitGpuError(ModelLoadError):
    """This GPU cannot be drawn on with this PyTorch, however often it is tried."""

    permanent = True


@dataclass(frozen=True)
class Card:
    """A GPU of the CUDA kind."""

    name: str
    capability: tuple[int, int]  # CUDA's compute capability

    @property
    def can_bf16(self) -> bool:
        return self.capability >= BF16_CAPABILITY


def choose_device(asked: str | None, driver_file: Path = DRIVER_FILE) -> torch.device:
    """CUDA where there is a GPU, unless `asked` names something else.

    Raises: ModelLoadError; NoGpuError, UnfitGpuError.
    """
    if asked == "cpu":
        return torch.device("cpu")
    if asked not in (None, "cuda"):
        raise ModelLoadError(f"the device {asked!r} is unknown here; there are cuda and cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
        require_kernels(read_card(device), torch.cuda.get_arch_list())
        return device
    driver = read_driver(driver_file)
    if asked is None and (driver is None or torch.version.cuda is None) and not gpu_probe.is_expected():
        return torch.device("cpu")
    told = why_no_gpu(driver, torch.version.cuda)
    if asked == "cuda":
        raise NoGpuError(f"CUDA is asked for, and there is none here: {told}, or ask for the device cpu")
    raise NoGpuError(f"{told}, or ask for the device cpu (INFERENCE_DEVICE=cpu) if it is meant to draw")


def read_card(device: torch.device) -> Card:
    found = torch.cuda.get_device_properties(device)
    return Card(found.name, (found.major, found.minor))


def read_driver(file: Path = DRIVER_FILE) -> str | None:
    """The version of NVIDIA's driver, such as 550.54.15; None where its kernel module is not loaded."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)*)\b", text)
    return found[1] if found else "of an unknown version"


def why_no_gpu(driver: str | None, cuda: str | None) -> str:
    """Why PyTorch for CUDA `cuda` (such as 13.2; None: for the CPU alone) reaches no GPU, and what to do."""
    if cuda is None:
        return "this build of PyTorch is for the CPU alone. Install the one of inference_server/requirements.txt"
    needed = NEEDED_DRIVERS.get(int(cuda.partition(".")[0]))
    major = re.match(r"\d+", driver or "")
    if driver and major and needed and int(major[0]) < needed:
        return (
            f"NVIDIA's driver here is {driver}, and this PyTorch (CUDA {cuda}) needs {needed} or newer. Update the "
            "driver of the machine"
        )
    what = f"NVIDIA's driver {driver} is loaded, and PyTorch reaches no GPU" if driver else "PyTorch reaches no GPU"
    return (
        f"{what} ({_torch_says()}). Give the container the GPU (docker run --gpus all, with the NVIDIA Container "
        "Toolkit on the machine)"
    )


def _torch_says() -> str:
    try:
        torch.cuda.init()
    except Exception as exc:
        return short_reason(exc).partition(".")[0]
    return "it sees no device"


def require_kernels(card: Card, built_for: Sequence[str]) -> None:
    """Checks that PyTorch has code for this card: otherwise each call ends with "no kernel image is available".

    `built_for`: what `torch.cuda.get_arch_list` says, sm_75 (runs on all 7.x from 7.5 on) or compute_120 (newer ones).

    Raises: UnfitGpuError.
    """
    kinds = [(one.partition("_")[0], _capability(one)) for one in built_for if "_" in one]
    if not kinds:
        return  # it does not say
    for kind, capability in kinds:
        same_major = kind == "compute" or capability[0] == card.capability[0]
        if same_major and capability <= card.capability:
            return
    least = min(capability for _, capability in kinds)
    raise UnfitGpuError(
        f"the GPU, {card.name}, has CUDA's compute capability {_dotted(card.capability)}, and this PyTorch "
        f"{torch.__version__} has code for {_dotted(least)} and newer alone. Take a newer card, or the device cpu"
    )


def _capability(name: str) -> tuple[int, int]:
    """sm_75 -> (7, 5), sm_100a -> (10, 0)."""
    digits = re.sub(r"\D", "", name.partition("_")[2]) or "00"
    return int(digits[:-1] or 0), int(digits[-1])


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
