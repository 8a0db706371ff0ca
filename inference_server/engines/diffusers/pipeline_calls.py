"""Draws with a pipeline's own call: what has no UNet to share steps with (Flux, Stable Diffusion 3, ...).

Drawings that wait together and want the same but for prompt and seed share a call; whoever comes later waits for its
end. What the pipeline does not take (a negative prompt, guidance) is left out. The safety checker is its own.
"""

import inspect
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from inference_server.engines import WorkChannel, short_reason
from inference_server.engines.diffusers import cuda_errors, schedulers
from inference_server.engines.diffusers.active_request import ActiveRequest
from inference_server.engines.diffusers.streams import Pace, give_memory_back
from inference_server.engines.previews import PreviewMap
from inference_server.messages import BatchStats, Capacity, GenerationParams, RawImage

IMAGES_AT_ONCE = 4  # such models are large: more at once is hardly faster, and nobody leaves before the end
PREVIEW_EVERY_S = 0.3


@dataclass(frozen=True)
class _Result:
    """What a call gave, in the order of the group's seeds."""

    pictures: Any  # (images, H, W, 3) float, 0 to 1
    nsfw: Sequence[bool] | None  # None: nobody looked


class PipelineCalls:
    """One model in memory."""

    def __init__(
        self, pipeline: Any, device: torch.device, capacity: int, preview_every_s: float = PREVIEW_EVERY_S
    ) -> None:
        self._pipeline, self._capacity = pipeline, capacity
        self._own_scheduler = pipeline.scheduler
        self._own_checker = getattr(pipeline, "safety_checker", None)
        self._previews, self._preview_every_s, self._preview_at_s = PreviewMap(), preview_every_s, 0.0
        self._latents: torch.Tensor | None = None  # (images, C, h, w) after the call's last step, where they are such
        self._parameters = frozenset(inspect.signature(pipeline.__call__).parameters)
        self._pace = Pace(device)
        self._waiting: deque[ActiveRequest] = deque()

    def work(self, channel: WorkChannel) -> None:
        """Draws until the channel has no more to give.

        Raises: whatever leaves the process unfit to go on.
        """
        while self._take_in(channel):
            group = self._next_group()
            if group:
                self._draw(channel, group)

    def _take_in(self, channel: WorkChannel) -> bool:
        """All that waits; sleeps when nothing does. False when no more will come."""
        while order := channel.take(timeout_s=None if not self._waiting else 0):
            self._waiting.append(ActiveRequest(order, channel))
            self._waiting[-1].wait()
        return bool(self._waiting)

    def _next_group(self) -> list[ActiveRequest]:
        """The oldest, and those that can share its call."""
        self._waiting = deque(one for one in self._waiting if not one.end_if_cancelled())
        group: list[ActiveRequest] = []
        for one in tuple(self._waiting):
            images = sum(len(other.drawing.seeds) for other in (*group, one))
            if not group or (images <= self._capacity and _same(one.drawing, group[0].drawing)):
                group.append(one)
                self._waiting.remove(one)
        return group

    def _draw(self, channel: WorkChannel, group: Sequence[ActiveRequest]) -> None:
        """Tells the pictures of the group; errors end its drawings, or, if memory was short, its newest."""
        for one in group:
            one.begin()
        try:
            result = self._call(channel, group)
        except Exception as exc:
            if cuda_errors.is_fatal(exc):
                raise
            cuda_errors.log_without_text(exc)
            short, reason = cuda_errors.is_out_of_memory(exc), _reason(exc, group[0].drawing)
        else:
            if result is not None:
                self._tell(group, result)
            return
        if short:
            self._on_out_of_memory(channel, group, reason)
        else:
            for one in group:
                one.fail(reason)

    def _call(self, channel: WorkChannel, group: Sequence[ActiveRequest]) -> _Result | None:
        """None when everybody has left."""
        drawing = group[0].drawing
        pipeline = self._pipeline
        pipeline.scheduler = schedulers.new(self._own_scheduler, drawing.scheduler)
        wanted: dict[str, Any] = {
            "prompt": [one.drawing.prompt for one in group for _ in one.drawing.seeds],
            "negative_prompt": [one.drawing.negative_prompt for one in group for _ in one.drawing.seeds],
            "width": drawing.width_px,
            "height": drawing.height_px,
            "num_inference_steps": drawing.num_inference_steps,
            "guidance_scale": drawing.guidance_scale,
            "generator": [torch.Generator("cpu").manual_seed(seed) for one in group for seed in one.drawing.seeds],
            "callback_on_step_end": (on_step := self._on_step(channel, group)),
            "output_type": "np",
        }
        if "callback_on_step_end" not in self._parameters:  # an older pipeline's, which hands over no pipeline
            wanted["callback"] = lambda step, timestep, latents: on_step(pipeline, step, timestep, {"latents": latents})
        if not any(wanted["negative_prompt"]):
            del wanted["negative_prompt"]
        if not drawing.safety_checker and self._own_checker is not None:
            pipeline.safety_checker = None
        self._latents, self._preview_at_s = None, time.monotonic() + self._preview_every_s
        self._pace.begin()
        try:
            with torch.inference_mode():
                result = pipeline(**{name: value for name, value in wanted.items() if name in self._parameters})
        finally:
            pipeline.scheduler = self._own_scheduler
            if self._own_checker is not None:
                pipeline.safety_checker = self._own_checker
            self._pace.drain()
        if all(one.ended for one in group):
            return None
        # By either name: the second is DeepFloyd's.
        found = getattr(result, "nsfw_content_detected", None) or getattr(result, "nsfw_detected", None)
        return _Result(result.images, None if found is None else [bool(one) for one in found])

    def _on_step(self, channel: WorkChannel, group: Sequence[ActiveRequest]) -> Callable[..., dict[str, Any]]:
        """The pipeline's callback after each step: tells it, and interrupts when nobody waits any more."""
        images = sum(len(one.drawing.seeds) for one in group)

        def on_step(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            for one in group:
                if not one.end_if_cancelled():
                    for image in range(len(one.drawing.seeds)):
                        one.step(image, min(step + 1, one.drawing.num_inference_steps))
            pipeline._interrupt = all(one.ended for one in group)
            self._preview(group, tensors.get("latents"), images)
            for time_ in self._pace.end(images):
                channel.tell(BatchStats(time_.step_s, time_.images, self._pace.device_bytes()))
            self._pace.begin()
            return tensors

        return on_step

    def _preview(self, group: Sequence[ActiveRequest], latents: Any, images: int) -> None:
        """Of each drawing's first image. Packed latents (Flux, say) have no places that a preview could show."""
        if not isinstance(latents, torch.Tensor) or latents.ndim != 4 or len(latents) != images:
            return
        self._latents = latents
        if (now_s := time.monotonic()) < self._preview_at_s:
            return
        self._preview_at_s = now_s + self._preview_every_s
        for one, place in zip(group, _places(group), strict=True):
            preview = None if one.ended else self._previews.draw(latents[place].float().cpu().numpy())
            if preview is not None:
                one.preview(preview)

    def _tell(self, group: Sequence[ActiveRequest], result: _Result) -> None:
        for one, first in zip(group, _places(group), strict=True):
            for image in range(len(one.drawing.seeds)):
                if not one.end_if_cancelled():
                    nsfw = None if result.nsfw is None else result.nsfw[first + image]
                    pixels = _pixels(result.pictures[first + image])
                    shown = np.zeros_like(pixels) if nsfw else pixels
                    one.finish(image, RawImage(pixels.shape[1], pixels.shape[0], shown.tobytes()), nsfw)
            if self._latents is not None and not (result.nsfw and result.nsfw[first]):  # one that was found is black
                self._previews.learn(self._latents[first].float().cpu().numpy(), _pixels(result.pictures[first]))
        self._latents = None

    def _on_out_of_memory(self, channel: WorkChannel, group: Sequence[ActiveRequest], reason: str) -> None:
        """The newest drawing ends, the others are tried again, fewer at once."""
        images = sum(len(one.drawing.seeds) for one in group)
        newest = max(group, key=lambda one: one.number)
        newest.fail(reason)
        for one in group:
            one.wait()
        self._waiting.extendleft(reversed([one for one in group if one is not newest]))
        if images > 1:
            self._capacity = max(1, min(self._capacity, images // 2))
            channel.tell(Capacity(self._capacity))
        give_memory_back()


def _same(one: GenerationParams, other: GenerationParams) -> bool:
    """Whether they may share a call."""
    return _settings(one) == _settings(other)


def _settings(drawing: GenerationParams) -> tuple[Any, ...]:
    size = (drawing.width_px, drawing.height_px)
    return (*size, drawing.num_inference_steps, drawing.guidance_scale, drawing.scheduler, drawing.safety_checker)


def _reason(exc: Exception, drawing: GenerationParams) -> str:
    """Pipelines check their inputs by quoting them, the prompt among them: those texts stay here."""
    if cuda_errors.is_out_of_memory(exc):
        return cuda_errors.drawing_reason(exc, drawing.width_px, drawing.height_px)
    text = short_reason(exc)
    return type(exc).__name__ if drawing.prompt in text else text


def _places(group: Sequence[ActiveRequest]) -> list[int]:
    """Of each drawing's first image among all of the call's."""
    counts = [len(one.drawing.seeds) for one in group]
    return [sum(counts[:index]) for index in range(len(counts))]


def _pixels(picture: Any) -> Any:
    """(H, W, 3) float 0 to 1 -> uint8, rounded as diffusers does."""
    return (picture * 255).round().astype(np.uint8)
