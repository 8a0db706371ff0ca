"""Which network draws which size: the UNet as it is, or what was compiled from it as soon as that is ready."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from inference_server.engines.diffusers.unet import BatchShape, UNetInputs, call_unet

Network = Callable[[UNetInputs], torch.Tensor]
Size = tuple[int, int]  # width, height in px


class Networks:
    """Written by the compiling thread, read by the step loop before each step."""

    def __init__(self, unet: Any) -> None:
        self.eager: Network = partial(call_unet, unet)
        self._compiled: dict[Size, Network] = {}

    def adopt(self, size: Size, network: Network) -> None:
        """From its next step on this size is drawn by `network`."""
        self._compiled[size] = network

    def of(self, shape: BatchShape) -> Network:
        """The same object as long as nothing was adopted."""
        return self._compiled.get((shape.width_px, shape.height_px), self.eager)
