"""Images of one size that take their steps together: who sits in which slot, and one step of all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch

from inference_server.engines.diffusers.encode import Conditions, ImageInMaking
from inference_server.engines.diffusers.unet import BatchShape, UNetInputs, UNetRunner


@dataclass(frozen=True)
class BatchKey:
    """What images must have in common to share a call of the UNet."""

    height_px: int
    width_px: int
    guided: bool

    @property
    def area_px(self) -> int:
        return self.height_px * self.width_px


def key_of(image: ImageInMaking) -> BatchKey:
    drawing = image.drawing
    return BatchKey(drawing.height_px, drawing.width_px, guided=image.unconditional is not None)


@dataclass(frozen=True)
class Advanced:
    """What one step made of one image."""

    image: ImageInMaking
    timestep: float
    seen: torch.Tensor  # (1, C, h, w): the UNet's input, good until the next step
    prediction: torch.Tensor  # (1, C, h, w): its answer, after guidance
    error: Exception | None = None  # the image's own scheduler failed


class RowsHeld:
    """Whose rows the runner's tensors hold: two batches of one shape take turns in the same ones.

    Without it a batch whose twin has filled them since would go on with the twin's prompts.
    """

    def __init__(self) -> None:
        self._marks: WeakKeyDictionary[UNetInputs, object] = WeakKeyDictionary()

    def are(self, inputs: UNetInputs, mark: object | None) -> bool:
        """Whether nobody has filled them since `mark` was given out."""
        return mark is not None and self._marks.get(inputs) is mark

    def begin(self, inputs: UNetInputs) -> None:
        """They are being filled: until that is done they hold nobody's rows."""
        self._marks.pop(inputs, None)

    def done(self, inputs: UNetInputs) -> object:
        """The mark of whoever has filled them."""
        mark = self._marks[inputs] = object()
        return mark


class Batch:
    """An image keeps its slot, and the batch its bucket, as long as the bucket is the smallest that holds all."""

    def __init__(self, key: BatchKey, buckets: Sequence[int]) -> None:
        """`buckets`: rising; the last is the most that this batch takes."""
        self.key = key
        self._buckets = tuple(buckets)
        self._slots: list[ImageInMaking | None] = []
        self._mark: object | None = None  # of the inputs that hold all rows of those who sit here, in `RowsHeld`
        self._guidance: torch.Tensor | None = None  # (bucket, 1, 1, 1) float32, while the slots stay

    @property
    def images(self) -> list[ImageInMaking]:
        """By slot."""
        return [image for image in self._slots if image is not None]

    @property
    def bucket(self) -> int:
        return len(self._slots)

    @property
    def shape(self) -> BatchShape:
        return BatchShape(self.bucket, self.key.guided, self.key.height_px, self.key.width_px)

    @property
    def has_room(self) -> bool:
        return len(self.images) < self._buckets[-1]

    def join(self, image: ImageInMaking) -> None:
        if None not in self._slots:
            self._resize(len(self.images) + 1)
        self._slots[self._slots.index(None)] = image
        self._stale()

    def leave(self, image: ImageInMaking) -> None:
        self._slots[self._slots.index(image)] = None
        self._resize(len(self.images))

    def step(self, runner: UNetRunner, held: RowsHeld) -> list[Advanced]:
        """One call of the UNet for all, then each image's own scheduler. `held`: the same for all who use `runner`.

        Raises: what the UNet raises; no image has then gone on.
        """
        inputs = runner.inputs(self.shape)
        if not held.are(inputs, self._mark):
            held.begin(inputs)
            self._fill_conditions(inputs)
            self._mark = held.done(inputs)
        self._fill_latents(inputs)
        prediction = self._guided(runner.run(self.shape, inputs))
        return [self._advance(slot, image, inputs, prediction) for slot, image in self._seated()]

    def _seated(self) -> list[tuple[int, ImageInMaking]]:
        return [(slot, image) for slot, image in enumerate(self._slots) if image is not None]

    def _resize(self, count: int) -> None:
        """Into the smallest bucket that holds `count`; who sits beyond its end moves into a gap."""
        bucket = next((size for size in self._buckets if size >= count), self._buckets[-1]) if count else 0
        if bucket == self.bucket:
            return
        kept, moving = self._slots[:bucket], [image for image in self._slots[bucket:] if image is not None]
        kept += [None] * (bucket - len(kept))
        for image in moving:
            kept[kept.index(None)] = image
        self._slots = kept
        self._stale()

    def _stale(self) -> None:
        self._mark = self._guidance = None

    def _fill_conditions(self, inputs: UNetInputs) -> None:
        for slot, image in self._seated():
            if image.unconditional is None:
                _copy_row(inputs, slot, image.conditions)
            else:
                _copy_row(inputs, slot, image.unconditional)
                _copy_row(inputs, self.bucket + slot, image.conditions)

    def _fill_latents(self, inputs: UNetInputs) -> None:
        timesteps = [0.0] * self.bucket
        for slot, image in self._seated():
            timesteps[slot] = image.schedule.timestep
            inputs.sample[slot : slot + 1].copy_(image.schedule.scaled(image.latents))
        if self.key.guided:
            inputs.sample[self.bucket :].copy_(inputs.sample[: self.bucket])
            timesteps *= 2
        inputs.timestep.copy_(_to_device(timesteps, inputs.timestep.device), non_blocking=True)

    def _guided(self, prediction: torch.Tensor) -> torch.Tensor:
        """(R, C, h, w) -> (bucket, C, h, w), each image with its own scale, rounded as diffusers does."""
        if not self.key.guided:
            return prediction.clone()  # schedulers keep what they are given, the runner takes it back
        unconditional, conditional = prediction.chunk(2)
        if self._guidance is None:
            scales = [0.0 if image is None else image.drawing.guidance_scale for image in self._slots]
            self._guidance = _to_device(scales, prediction.device).view(-1, 1, 1, 1)
        towards = self._guidance * (conditional - unconditional)
        return unconditional + towards.to(unconditional.dtype)

    def _advance(self, slot: int, image: ImageInMaking, inputs: UNetInputs, prediction: torch.Tensor) -> Advanced:
        seen, own = inputs.sample[slot : slot + 1], prediction[slot : slot + 1]
        timestep = image.schedule.timestep
        try:
            image.latents = image.schedule.advance(own, image.latents)
        except Exception as exc:  # the others' steps are done or will be: this is its own affair
            return Advanced(image, timestep, seen, own, exc)
        return Advanced(image, timestep, seen, own)


def _copy_row(inputs: UNetInputs, row: int, conditions: Conditions) -> None:
    for name, tensor in conditions.tensors():
        getattr(inputs, name)[row : row + 1].copy_(tensor)


def _to_device(values: list[float], device: torch.device) -> torch.Tensor:
    """float32 (len(values),), without waiting for the device."""
    tensor = torch.tensor(values, dtype=torch.float32)
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
