"""Tells what an exception of PyTorch means: one request fails, memory is short, or the process has lost its GPU."""

import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from inference_server.engines import short_reason

# After one of these every later call fails too (an illegal address, a device that fell off the bus).
_STICKY = (
    "CUDA error",
    "CUDA driver error",
    "CUBLAS_STATUS",
    "CUDNN_STATUS",
    "cuDNN error",
    "device-side assert",
    "NVRTC",
)


class SaferPrecisionError(Exception):
    """A picture came out spoilt: this process ends, and the next one loads the model in another precision."""


MEMORY_SHORT = "The device's memory does not suffice"  # how a reason for the visitor begins
_OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "DefaultCPUAllocator")  # in the libraries' own words


@dataclass(frozen=True)
class Failure:
    """Why a step, an encoding or a decoding failed; the process can go on."""

    reason: str  # for the visitor
    out_of_memory: bool


def failure_of(exc: Exception, width_px: int, height_px: int, prompts: Iterable[str] = ()) -> Failure:
    """Logs where `exc` was raised, and says what it means for pictures of this size.

    `prompts`: texts that it may quote, as diffusers does when it checks a pipeline's inputs; its text is then left out.

    Raises: `exc` itself, if the process cannot use the device any more.
    """
    if is_fatal(exc):
        raise exc
    log_without_text(exc)
    if is_out_of_memory(exc):
        return Failure(out_of_memory_reason(width_px, height_px), out_of_memory=True)
    text = short_reason(exc)
    return Failure(type(exc).__name__ if any(one in text for one in prompts if one) else text, out_of_memory=False)


def out_of_memory_reason(width_px: int, height_px: int) -> str:
    return (
        f"{MEMORY_SHORT} for {width_px}x{height_px} px beside what else is drawn just now. "
        "Ask for a smaller picture or fewer at once, or try again later."
    )


def is_out_of_memory(exc: BaseException) -> bool:
    if isinstance(exc, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(exc, RuntimeError) and any(words in str(exc) for words in _OUT_OF_MEMORY)


def is_fatal(exc: BaseException) -> bool:
    """Whether this process cannot use the device any more: it must end, and the server starts another one."""
    if is_out_of_memory(exc):
        return False
    if isinstance(exc, torch.AcceleratorError | SaferPrecisionError):
        return True
    if not isinstance(exc, RuntimeError) or "NOT_SUPPORTED" in str(exc):  # a library that cannot do this one thing
        return False
    return any(words in str(exc) for words in _STICKY)


def log_without_text(exc: BaseException) -> None:
    """Prints the exception's type and stack; its text may hold the prompt."""
    print(f"{type(exc).__name__}, raised in:", file=sys.stderr)
    traceback.print_tb(exc.__traceback__)
