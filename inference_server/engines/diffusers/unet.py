"""The UNet as the step loop calls it: its input tensors, which stay in place, and the networks that read them.

A compiled UNet and a CUDA graph need inputs of few shapes, and a graph needs them at the same addresses at every call.
So the runner hands out the inputs of a batch, and the loop copies rows into them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Protocol

import torch

from inference_server.engines.diffusers.loras import AdapterSwitch
from inference_server.loras import Selection

MAX_KEPT_INPUTS = 24  # of some MB each; visitors may ask for any size


@dataclass(frozen=True)
class BatchShape:
    """What decides the shapes of a batch's tensors."""

    bucket: int  # images side by side: one of `batch_queue.BUCKETS`
    guided: bool  # two rows an image: the first half of all rows unconditional, the second conditional
    height_px: int
    width_px: int
    loras: Selection = ()  # which the network draws with
    windows: int = 1  # of the text encoder, that the prompts take

    @property
    def rows(self) -> int:
        return 2 * self.bucket if self.guided else self.bucket


class TensorFields:
    """A dataclass whose fields are tensors, some of them absent."""

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and tensor of those that the model has."""
        for field in fields(self):  # type: ignore[arg-type]
            tensor = getattr(self, field.name)
            if isinstance(tensor, torch.Tensor):
                yield field.name, tensor


@dataclass(eq=False)  # the same only where it is the same memory
class UNetInputs(TensorFields):
    """All that the UNet reads at one step, R = `BatchShape.rows` rows each, on the device, in the UNet's dtype.

    The image in slot i has row i, when guided also row `bucket + i`. A row without an image holds what was there last;
    its result is not read.
    """

    sample: torch.Tensor  # (R, C, h, w) contiguous; a runner that wants channels_last converts inside its call
    timestep: torch.Tensor  # (R,) float32
    encoder_hidden_states: torch.Tensor  # (R, tokens, D)
    # (R, P): the guidance's embedding, of distilled models (LCM); (R, 1): the guidance, of Flux
    timestep_cond: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None  # (R, D2), SDXL's and the transformers'
    time_ids: torch.Tensor | None = None  # (R, 6), SDXL's
    # How the latents of a single image lie in memory (an encoded one's do so): a convolution's last bits hang on it.
    channels_last: bool = False
    filled_by: object | None = None  # the mark of the batch whose prompts the rows hold; None while they are filled


@dataclass(frozen=True)
class InputSizes:
    """What all batches of one model have in common in the shapes of their inputs."""

    device: torch.device
    dtype: torch.dtype
    channels: int
    px_per_latent: int
    conditioning: Mapping[str, tuple[int, ...]]  # the other inputs of this model by name, without their rows

    def allocate(self, shape: BatchShape) -> UNetInputs:
        """New inputs, all zeros."""

        def zeros(*size: int, dtype: torch.dtype = self.dtype) -> torch.Tensor:
            return torch.zeros(shape.rows, *size, dtype=dtype, device=self.device)

        height, width = shape.height_px // self.px_per_latent, shape.width_px // self.px_per_latent
        return UNetInputs(
            sample=zeros(self.channels, height, width),
            timestep=zeros(dtype=torch.float32),
            **{name: zeros(*_widened(name, size, shape.windows)) for name, size in self.conditioning.items()},
        )


def _widened(name: str, size: tuple[int, ...], windows: int) -> tuple[int, ...]:
    """The text, (tokens, D), is as long as all its windows."""
    return (windows * size[0], *size[1:]) if name == "encoder_hidden_states" else size


class UNetRunner(Protocol):
    """Runs the network. Only the step loop's thread calls it, on its CUDA stream, under `torch.inference_mode`."""

    def inputs(self, shape: BatchShape) -> UNetInputs:
        """The tensors to fill for a batch of this shape; two batches of one shape may get the same ones.

        The loop asks before every step, so that a runner may switch, to a new CUDA graph for example. It fills all
        rows anew where the answer is another object than before, or where another batch has filled it since.
        """

    def run(self, shape: BatchShape, inputs: UNetInputs) -> torch.Tensor:
        """The network's prediction (R, C, h, w); good until the next call.

        Raises: torch.OutOfMemoryError; the inputs are then as they were, and the loop goes on with fewer images.
        """

    def forget(self, shape: BatchShape | None = None) -> None:
        """Frees what can be made again, of this shape or of all, because memory was short."""


class EagerUNet:
    """Runs the UNet as it is, for any shape."""

    def __init__(
        self, unet: Any, sizes: InputSizes, switch: AdapterSwitch | None = None, call: "Forward | None" = None
    ) -> None:
        """`switch`: the UNet's LoRAs, where it has some. `call`: how a network that is no UNet is called."""
        self._networks, self._sizes = Networks(unet, switch, call or call_unet), sizes
        self._inputs: dict[BatchShape, UNetInputs] = {}  # the longest unused first

    def inputs(self, shape: BatchShape) -> UNetInputs:
        inputs = self._inputs.pop(shape, None) or self._sizes.allocate(shape)
        self._inputs[shape] = inputs
        if len(self._inputs) > MAX_KEPT_INPUTS:
            del self._inputs[next(iter(self._inputs))]
        return inputs

    def run(self, shape: BatchShape, inputs: UNetInputs) -> torch.Tensor:
        return self._networks.of(shape)(inputs)

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
    sample = inputs.sample.contiguous(memory_format=torch.channels_last) if inputs.channels_last else inputs.sample
    prediction: torch.Tensor = unet(
        sample,
        inputs.timestep,
        encoder_hidden_states=inputs.encoder_hidden_states,
        timestep_cond=inputs.timestep_cond,
        added_cond_kwargs=added,
        return_dict=False,
    )[0]
    return prediction


Forward = Callable[[Any, UNetInputs], torch.Tensor]
Network = Callable[[UNetInputs], torch.Tensor]
Size = tuple[int, int]  # width, height in px


class Networks:
    """Which network draws which size: the UNet as it is, or its compiled form as soon as that is ready.

    The compiling thread writes it, the step loop reads it before each step.
    """

    def __init__(self, unet: Any, switch: AdapterSwitch | None = None, call: Forward = call_unet) -> None:
        self._unet, self._switch, self._call = unet, switch, call
        self._with_loras: dict[Selection, Network] = {}  # the longest unused first
        self._compiled: dict[Size, Network] = {}
        self.eager: Network = partial(call, unet)
        if switch is not None:
            self.eager = partial(_call_with, call, switch, (), unet)

    def adopt(self, size: Size, network: Network) -> None:
        """Draws this size with `network` from the next step on."""
        self._compiled[size] = network

    def of(self, shape: BatchShape) -> Network:
        """The same object until `adopt` changes it."""
        if shape.loras and self._switch is not None:
            network = self._with_loras.pop(shape.loras, None)
            network = network or partial(_call_with, self._call, self._switch, shape.loras, self._unet)
            self._with_loras[shape.loras] = network
            if len(self._with_loras) > MAX_KEPT_INPUTS:
                del self._with_loras[next(iter(self._with_loras))]
            return network
        if shape.windows > 1:  # a compiled UNet reads one
            return self.eager
        return self._compiled.get((shape.width_px, shape.height_px), self.eager)


def _call_with(
    call: Forward, switch: AdapterSwitch, selection: Selection, unet: Any, inputs: UNetInputs
) -> torch.Tensor:
    """The lock: a compiled UNet may be compared with the UNet as it is, meanwhile."""
    with switch.lock:
        switch.use(selection)
        return call(unet, inputs)
