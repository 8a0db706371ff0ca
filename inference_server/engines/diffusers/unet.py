"""The UNet as the step loop calls it: tensors that stay where they are, and whoever runs the network over them.

A runner may compile the network, or record it once as a CUDA graph and replay it: both need inputs of few shapes, and
a graph needs them at the same addresses at every call. So it is the runner that hands out the inputs of a batch; the
loop copies rows into them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch

MAX_KEPT_INPUTS = 24  # of some MB each; visitors may ask for any size


@dataclass(frozen=True)
class BatchShape:
    """What decides the shapes of a batch's tensors; hashable, so that a runner may keep something for each."""

    bucket: int  # images side by side: 1, 2, 4, 8 or 16
    guided: bool  # two rows an image: the first half of all rows unconditional, the second conditional
    height_px: int
    width_px: int

    @property
    def rows(self) -> int:
        return 2 * self.bucket if self.guided else self.bucket


@dataclass(frozen=True, eq=False)  # the same only where it is the same memory
class UNetInputs:
    """All that the UNet reads at one step, R = `BatchShape.rows` rows each, on the device, in the UNet's dtype.

    The row of the image in slot i is i, when guided also `bucket + i`. A row without an image holds what was there
    last; its result is not read.
    """

    sample: torch.Tensor  # (R, C, h, w) contiguous; a runner that wants channels_last converts inside its call
    timestep: torch.Tensor  # (R,) float32
    encoder_hidden_states: torch.Tensor  # (R, tokens, D)
    timestep_cond: torch.Tensor | None = None  # (R, P): the guidance's embedding, of distilled models (LCM)
    text_embeds: torch.Tensor | None = None  # (R, D2), SDXL's
    time_ids: torch.Tensor | None = None  # (R, 6), SDXL's

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and tensor of those that the model has."""
        for field in fields(self):
            tensor = getattr(self, field.name)
            if tensor is not None:
                yield field.name, tensor


@dataclass(frozen=True)
class InputSizes:
    """The sizes of this model's inputs that no batch changes."""

    device: torch.device
    dtype: torch.dtype
    channels: int
    px_per_latent: int
    tokens: int
    text_width: int
    timestep_cond_width: int | None = None
    text_embeds_width: int | None = None
    time_ids_width: int | None = None

    def allocate(self, shape: BatchShape) -> UNetInputs:
        """New inputs, all zeros."""
        rows = shape.rows
        latent = (shape.height_px // self.px_per_latent, shape.width_px // self.px_per_latent)

        def zeros(*size: int, dtype: torch.dtype = self.dtype) -> torch.Tensor:
            return torch.zeros(rows, *size, dtype=dtype, device=self.device)

        def optional(width: int | None) -> torch.Tensor | None:
            return None if width is None else zeros(width)

        return UNetInputs(
            sample=zeros(self.channels, *latent),
            timestep=zeros(dtype=torch.float32),
            encoder_hidden_states=zeros(self.tokens, self.text_width),
            timestep_cond=optional(self.timestep_cond_width),
            text_embeds=optional(self.text_embeds_width),
            time_ids=optional(self.time_ids_width),
        )


class UNetRunner(Protocol):
    """Runs the network. Called by the step loop's thread alone, on its CUDA stream, under `torch.inference_mode`."""

    def inputs(self, shape: BatchShape) -> UNetInputs:
        """The tensors to fill for a batch of this shape; two batches of one shape may be given the same ones.

        Asked for before every step, so that a runner may switch (to a graph that has become ready, say): where the
        answer is another object than at the step before, or another batch has used it since, all rows are filled anew.
        """

    def run(self, shape: BatchShape, inputs: UNetInputs) -> torch.Tensor:
        """The network's prediction (R, C, h, w); good until the next call.

        Raises: torch.OutOfMemoryError; the inputs are then as they were, and the loop goes on with fewer images.
        """

    def forget(self, shape: BatchShape | None = None) -> None:
        """Lets go of memory that can be had again, of this shape or of all: it was not enough."""


class EagerUNet:
    """Runs the UNet as it is, for any shape."""

    def __init__(self, unet: Any, sizes: InputSizes) -> None:
        self._unet, self._sizes = unet, sizes
        self._inputs: dict[BatchShape, UNetInputs] = {}  # the longest unused first

    def inputs(self, shape: BatchShape) -> UNetInputs:
        inputs = self._inputs.pop(shape, None) or self._sizes.allocate(shape)
        self._inputs[shape] = inputs
        if len(self._inputs) > MAX_KEPT_INPUTS:
            del self._inputs[next(iter(self._inputs))]
        return inputs

    def run(self, shape: BatchShape, inputs: UNetInputs) -> torch.Tensor:
        return call_unet(self._unet, inputs)

    def forget(self, shape: BatchShape | None = None) -> None:
        if shape is None:
            self._inputs.clear()
        else:
            self._inputs.pop(shape, None)


def call_unet(unet: Any, inputs: UNetInputs) -> torch.Tensor:
    """One forward pass, as diffusers' pipelines call it."""
    added = None
    if inputs.text_embeds is not None:
        added = {"text_embeds": inputs.text_embeds, "time_ids": inputs.time_ids}
    prediction: torch.Tensor = unet(
        inputs.sample,
        inputs.timestep,
        encoder_hidden_states=inputs.encoder_hidden_states,
        timestep_cond=inputs.timestep_cond,
        added_cond_kwargs=added,
        return_dict=False,
    )[0]
    return prediction
