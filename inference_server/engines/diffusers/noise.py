"""The noise that some schedulers add on the way, brought to the GPU without waiting for it.

diffusers makes it on the CPU, from the image's own generator, and then copies it from memory that the GPU cannot read
by itself: the copy waits until the running step is done, and the GPU then waits for Python, at every step.
"""

import sys
from typing import Any

import torch
from diffusers.utils import torch_utils


def randn_tensor(
    shape: tuple[int, ...],
    generator: Any = None,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    layout: Any = None,
) -> torch.Tensor:
    """The numbers of diffusers' own function; of one CPU generator for a GPU, the copy is still under way."""
    on_gpu = device is not None and torch.device(device).type == "cuda"
    if not on_gpu or not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        return torch_utils.randn_tensor(shape, generator=generator, device=device, dtype=dtype, layout=layout)
    return drawn(shape, generator, dtype, pinned=True).to(device, non_blocking=True)


def drawn(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype | None, pinned: bool) -> torch.Tensor:
    """The numbers on the CPU; `pinned`: in memory that a GPU reads by itself (there must be one)."""
    return torch.randn(shape, generator=generator, dtype=dtype, pin_memory=pinned)


def do_not_wait() -> int:
    """All schedulers imported so far take their noise from here; how many there are."""
    taken = 0
    for name, module in tuple(sys.modules.items()):
        if name.startswith("diffusers.schedulers.scheduling_") and hasattr(module, "randn_tensor"):
            module.randn_tensor = randn_tensor  # type: ignore[attr-defined]
            taken += 1
    return taken
