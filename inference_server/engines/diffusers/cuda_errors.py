"""What an exception means for the others: nothing, that memory is short, or that this process is done for."""

import sys
import traceback

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
MEMORY_SHORT = "The device's memory does not suffice"  # how a reason for the visitor begins
_SHORT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "DefaultCPUAllocator")  # libraries' own words for it


def is_out_of_memory(exc: BaseException) -> bool:
    if isinstance(exc, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(exc, RuntimeError) and any(words in str(exc) for words in _SHORT_OF_MEMORY)


def is_fatal(exc: BaseException) -> bool:
    """Whether the device cannot be used any more by this process; it must end, to be started again."""
    if is_out_of_memory(exc):
        return False
    if isinstance(exc, torch.AcceleratorError):
        return True
    if not isinstance(exc, RuntimeError) or "NOT_SUPPORTED" in str(exc):  # a library that cannot do this one thing
        return False
    return any(words in str(exc) for words in _STICKY)


def log_without_text(exc: BaseException) -> None:
    """Where it happened, for the log; the exception's own text may hold the prompt."""
    print(f"{type(exc).__name__}, raised in:", file=sys.stderr)
    traceback.print_tb(exc.__traceback__)


def drawing_reason(exc: BaseException, width_px: int, height_px: int) -> str:
    """Why the step failed, in words for the visitor; the device and the schedulers know no prompt."""
    if is_out_of_memory(exc):
        return (
            f"{MEMORY_SHORT} for {width_px}x{height_px} px beside what else is drawn just now. "
            "Ask for a smaller picture or fewer at once, or try again later."
        )
    return short_reason(exc)
