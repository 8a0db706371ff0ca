"""Images of one size that share calls of the UNet: who sits in which slot, and one step of all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from inference_server.engines.diffusers.encode import ActiveImage, Conditioning
from inference_server.engines.diffusers.unet import BatchShape, UNetInputs, UNetRunner
from inference_server.loras import Selection


@dataclass(frozen=True)
class BatchKey:
    """What images must have in common to share a call of the UNet."""

    height_px: int
    width_px: int
    guided: bool
    loras: Selection = ()
    windows: int = 1  # of the text encoder, that the prompts take

    @classmethod
    def of(cls, image: ActiveImage) -> "BatchKey":
        params, guided = image.params, image.unconditional is not None
        return cls(params.height_px, params.width_px, guided, params.loras, image.windows)

    @property
    def area_px(self) -> int:
        return self.height_px * self.width_px


@dataclass(frozen=True)
class StepResult:
    """What one step made of one image."""

    image: ActiveImage
    timestep: float
    sample: torch.Tensor  # (1, C, h, w): the UNet's input, good until the next step
    prediction: torch.Tensor  # (1, C, h, w): its answer, after guidance
    error: Exception | None = None  # the image's own scheduler failed


class Batch:
    """Images in slots. The number of slots (the bucket) is the smallest of the allowed ones that holds all images."""

    def __init__(self, key: BatchKey, buckets: Sequence[int]) -> None:
        """`buckets`: rising; the last is the most that this batch takes."""
        self.key = key
        self._buckets = tuple(buckets)
        self._slots: list[ActiveImage | None] = []
        # While the slots stay as they are:
        self._mark: object | None = None  # on the inputs that hold the prompts of all slots
        self._guidance: torch.Tensor | None = None  # (bucket, 1, 1, 1) float32

    @property
    def images(self) -> list[ActiveImage]:
        """By slot."""
        return [image for image in self._slots if image is not None]

    @property
    def bucket(self) -> int:
        return len(self._slots)

    @property
    def area_px(self) -> int:
        """Pixels of one step."""
        return self.bucket * self.key.area_px

    @property
    def shape(self) -> BatchShape:
        key = self.key
        return BatchShape(self.bucket, key.guided, key.height_px, key.width_px, key.loras, key.windows)

    @property
    def has_room(self) -> bool:
        return len(self.images) < self._buckets[-1]

    def join(self, image: ActiveImage) -> None:
        if None not in self._slots:
            self._resize(len(self.images) + 1)
        self._slots[self._slots.index(None)] = image
        self._mark = self._guidance = None

    def leave(self, image: ActiveImage) -> None:
        self._slots[self._slots.index(image)] = None
        self._resize(len(self.images))

    def step(self, runner: UNetRunner) -> list[StepResult]:
        """One call of the UNet for all, then each image's own scheduler.

        Raises: what the UNet raises; no image has then gone on.
        """
        inputs = runner.inputs(self.shape)
        # Two batches of one shape take turns in the same inputs: each must find its own prompts there.
        if self._mark is None or inputs.filled_by is not self._mark:
            inputs.filled_by = None
            self._fill_conditioning(inputs)
            inputs.filled_by = self._mark = object()
        self._fill_latents(inputs)
        prediction = self._guided(runner.run(self.shape, inputs))
        return [self._advance(slot, image, inputs, prediction) for slot, image in self._occupied()]

    def _occupied(self) -> list[tuple[int, ActiveImage]]:
        return [(slot, image) for slot, image in enumerate(self._slots) if image is not None]

    def _resize(self, count: int) -> None:
        """Takes the smallest bucket that holds `count`; images beyond its end move into gaps."""
        bucket = next((size for size in self._buckets if size >= count), self._buckets[-1]) if count else 0
        if bucket == self.bucket:
            return
        kept, moving = self._slots[:bucket], [image for image in self._slots[bucket:] if image is not None]
        kept += [None] * (bucket - len(kept))
        for image in moving:
            kept[kept.index(None)] = image
        self._slots = kept
        self._mark = self._guidance = None

    def _fill_conditioning(self, inputs: UNetInputs) -> None:
        for slot, image in self._occupied():
            if image.unconditional is None:
                _copy_row(inputs, slot, image.conditional)
            else:
                _copy_row(inputs, slot, image.unconditional)
                _copy_row(inputs, self.bucket + slot, image.conditional)

    def _fill_latents(self, inputs: UNetInputs) -> None:
        timesteps = [0.0] * self.bucket
        for slot, image in self._occupied():
            timesteps[slot] = image.schedule.timestep
            own = image.unet_input()
            inputs.sample[slot : slot + 1].copy_(own)
            inputs.channels_last = self.bucket == 1 and _is_channels_last(own)
        if self.key.guided:
            inputs.sample[self.bucket :].copy_(inputs.sample[: self.bucket])
            timesteps *= 2
        inputs.timestep.copy_(_to_device(timesteps, inputs.timestep.device), non_blocking=True)

    def _guided(self, prediction: torch.Tensor) -> torch.Tensor:
        """(R, C, h, w) -> (bucket, C, h, w), each image with its own scale, rounded as diffusers does."""
        if not self.key.guided:
            return prediction.clone()  # schedulers keep what they get, and the runner reuses it
        unconditional, conditional = prediction.chunk(2)
        if self._guidance is None:
            scales = [0.0 if image is None else image.params.guidance_scale for image in self._slots]
            self._guidance = _to_device(scales, prediction.device).view(-1, 1, 1, 1)
        towards = self._guidance * (conditional - unconditional)
        return unconditional + towards.to(unconditional.dtype)

    def _advance(self, slot: int, image: ActiveImage, inputs: UNetInputs, prediction: torch.Tensor) -> StepResult:
        own = prediction[slot : slot + 1]
        sample = inputs.sample[slot : slot + 1, : own.shape[1]]  # what lies beside the latents is no part of the image
        timestep = image.schedule.timestep
        try:
            image.advance(own)
        except Exception as exc:  # it concerns this image alone
            return StepResult(image, timestep, sample, own, exc)
        return StepResult(image, timestep, sample, own)


def _is_channels_last(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def _copy_row(inputs: UNetInputs, row: int, conditioning: Conditioning) -> None:
    for name, tensor in conditioning.tensors():
        getattr(inputs, name)[row : row + 1].copy_(tensor)


def _to_device(values: list[float], device: torch.device) -> torch.Tensor:
    """float32 (len(values),), without waiting for the device."""
    tensor = torch.tensor(values, dtype=torch.float32)
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
