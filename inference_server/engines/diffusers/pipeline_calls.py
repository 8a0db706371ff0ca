"""Draws by a pipeline's own `__call__`: for models without a UNet to share steps of (Flux, Stable Diffusion 3, ...).

Requests that wait together and want the same but for prompt and seed share a call; a later one waits for its end. What
the pipeline does not take (a negative prompt, guidance) is left out. The pipeline's own safety checker looks.
"""

import inspect
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from inference_server.engines import WorkChannel, spoilt
from inference_server.engines.diffusers import cuda_errors, schedulers
from inference_server.engines.diffusers.active_request import ActiveRequest
from inference_server.engines.diffusers.loading import LoadedPipeline
from inference_server.engines.diffusers.model_info import guidance_argument
from inference_server.engines.diffusers.streams import StepTimer, empty_cache, mem_usage
from inference_server.engines.diffusers.unused_words import PromptWindows
from inference_server.engines.previews import PreviewMap
from inference_server.messages import BatchStats, Capacity, GenerationParams

IMAGES_AT_ONCE = 4  # such models are large: more at once is hardly faster, and nobody leaves before the end
PREVIEW_EVERY_S = 0.3
PER_REQUEST = ("prompt", "negative_prompt", "seeds")  # what requests of one call may differ in


@dataclass(frozen=True)
class _CallResult:
    """What a call gave, in the order of the group's seeds."""

    pictures: Any  # (images, H, W, 3) float, 0 to 1
    nsfw: Sequence[bool] | None  # None: nobody looked


class PipelineCalls:
    """One model in memory."""

    def __init__(
        self,
        loaded: LoadedPipeline,
        capacity: int,
        preview_every_s: float = PREVIEW_EVERY_S,
    ) -> None:
        """`capacity`: images of one call."""
        pipeline, device = loaded.pipeline, loaded.device
        self._loaded, self._pipeline, self._family, self._capacity = loaded, pipeline, loaded.family, capacity
        self._own_scheduler = pipeline.scheduler
        self._own_checker = getattr(pipeline, "safety_checker", None)
        self._previews, self._preview_every_s, self._preview_at_s = PreviewMap(), preview_every_s, 0.0
        self._latents: torch.Tensor | None = None  # (images, C, h, w) after the call's last step, where they are such
        self._parameters = frozenset(inspect.signature(pipeline.__call__).parameters)
        self._guidance_argument = guidance_argument(inspect.signature(pipeline.__call__).parameters, self._family)
        self._windows = PromptWindows(pipeline, self._family.max_sequence_length if self._family else None)
        self._timer = StepTimer(device)
        self._waiting: deque[ActiveRequest] = deque()

    def work(self, channel: WorkChannel) -> None:
        """Draws until the channel has no more to give.

        Raises: whatever the process cannot survive.
        """
        while self._receive(channel):
            if group := self._next_group():
                self._draw(channel, group)

    def _receive(self, channel: WorkChannel) -> bool:
        """Takes all requests that wait; sleeps while there is none. False when no more will come."""
        while order := channel.take(timeout_s=None if not self._waiting else 0):
            self._waiting.append(ActiveRequest(order, channel))
            self._waiting[-1].wait()
        return bool(self._waiting)

    def _next_group(self) -> list[ActiveRequest]:
        """The oldest request, and those that can share its call."""
        self._waiting = deque(one for one in self._waiting if not one.end_if_cancelled())
        group: list[ActiveRequest] = []
        for one in tuple(self._waiting):
            images = sum(len(other.params.seeds) for other in (*group, one))
            if not group or (images <= self._capacity and _shared(one.params) == _shared(group[0].params)):
                group.append(one)
                self._waiting.remove(one)
        return group

    def _draw(self, channel: WorkChannel, group: Sequence[ActiveRequest]) -> None:
        """Tells the pictures of the group. An error ends its requests, or, if memory was short, the newest one."""
        for one in group:
            one.begin()
        try:
            result = self._call(channel, group)
        except Exception as exc:
            params = group[0].params
            prompts = [prompt for one in group for prompt in (one.params.prompt, one.params.negative_prompt)]
            failure = cuda_errors.failure_of(exc, params.width_px, params.height_px, prompts)
        else:
            if result is not None:
                self._tell(group, result)
            return
        # Outside of the handler, so that the exception does not hold the memory that is freed next.
        if failure.out_of_memory:
            self._on_out_of_memory(channel, group, failure.reason)
        else:
            for one in group:
                one.fail(failure.reason)

    def _call(self, channel: WorkChannel, group: Sequence[ActiveRequest]) -> _CallResult | None:
        """None when all requests were cancelled meanwhile."""
        pipeline, params = self._pipeline, group[0].params
        arguments = self._arguments(channel, group)
        for one in group:
            one.unused_words = self._windows.unused_words(one.params.prompt)
            if "negative_prompt" in arguments:
                one.unused_negative_words = self._windows.unused_words(one.params.negative_prompt)
        pipeline.scheduler = schedulers.new(self._own_scheduler, params.scheduler)
        if not params.safety_checker and self._own_checker is not None:
            pipeline.safety_checker = None
        self._latents, self._preview_at_s = None, time.monotonic() + self._preview_every_s
        self._timer.begin()
        try:
            with torch.inference_mode():
                result = pipeline(**arguments)
        finally:
            pipeline.scheduler = self._own_scheduler
            if self._own_checker is not None:
                pipeline.safety_checker = self._own_checker
            self._timer.drain()
        if all(one.ended for one in group):
            return None
        # By either name: the second is DeepFloyd's.
        found = getattr(result, "nsfw_content_detected", None) or getattr(result, "nsfw_detected", None)
        return _CallResult(result.images, None if found is None else [bool(one) for one in found])

    def _arguments(self, channel: WorkChannel, group: Sequence[ActiveRequest]) -> dict[str, Any]:
        """What the pipeline takes of the requests' parameters; most have diffusers' own names and go as they are."""
        params, on_step = group[0].params, self._on_step(channel, group)
        wanted: dict[str, Any] = {
            **_shared(params),
            "width": params.width_px,
            "height": params.height_px,
            "prompt": [one.params.prompt for one in group for _ in one.params.seeds],
            "negative_prompt": self._negative_prompts(group),
            "generator": [torch.Generator("cpu").manual_seed(seed) for one in group for seed in one.params.seeds],
            "callback_on_step_end": on_step,
            "output_type": "np",
        }
        if "callback_on_step_end" not in self._parameters:  # an older pipeline's, which hands over no pipeline
            wanted["callback"] = lambda step, timestep, latents: on_step(
                self._pipeline, step, timestep, {"latents": latents}
            )
        if not wanted["negative_prompt"]:
            del wanted["negative_prompt"]
        guidance = wanted.pop("guidance_scale")
        if self._guidance_argument is not None:
            wanted[self._guidance_argument] = guidance
        if self._family is not None and self._family.max_sequence_length is not None:
            wanted["max_sequence_length"] = self._family.max_sequence_length
        return {name: value for name, value in wanted.items() if name in self._parameters}

    def _negative_prompts(self, group: Sequence[ActiveRequest]) -> list[str]:
        """One for each image; empty where none has an effect. Some models guide only where there is one."""
        family = self._family
        given = [one.params.negative_prompt for one in group for _ in one.params.seeds]
        if family is None:
            return given if any(given) else []
        if not family.negative_prompt:
            return []
        if family.blank_negative_prompt is not None and group[0].params.guidance_scale > 1:
            return [one or family.blank_negative_prompt for one in given]
        return given if any(given) else []

    def _on_step(self, channel: WorkChannel, group: Sequence[ActiveRequest]) -> Callable[..., dict[str, Any]]:
        """The pipeline's callback after each step: tells the step, and interrupts when all requests were cancelled."""
        images = sum(len(one.params.seeds) for one in group)

        def on_step(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            for one in group:
                if not one.end_if_cancelled():
                    for image in range(len(one.params.seeds)):
                        one.step(image, min(step + 1, one.params.num_inference_steps))
            pipeline._interrupt = all(one.ended for one in group)
            self._preview(group, tensors.get("latents"), images)
            for time_ in self._timer.end(images):
                channel.tell(BatchStats(time_.step_s, time_.images, self._timer.device_bytes()))
            self._timer.begin()
            return tensors

        return on_step

    def _preview(self, group: Sequence[ActiveRequest], latents: Any, images: int) -> None:
        """Previews each request's first image. Packed latents (Flux) have no places that a preview could show."""
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

    def _tell(self, group: Sequence[ActiveRequest], result: _CallResult) -> None:
        for one, first in zip(group, _places(group), strict=True):
            for image in range(len(one.params.seeds)):
                if not one.end_if_cancelled():
                    nsfw, picture = None if result.nsfw is None else result.nsfw[first + image], first + image
                    if nsfw or not self._is_spoilt(one, result.pictures[picture]):
                        one.finish(image, _pixels(result.pictures[picture]), nsfw, mem_usage())
            learns = self._latents is not None and np.isfinite(result.pictures[first]).all()
            if self._latents is not None and learns and not (result.nsfw and result.nsfw[first]):  # those are black
                self._previews.learn(self._latents[first].float().cpu().numpy(), _pixels(result.pictures[first]))
        self._latents = None

    def _is_spoilt(self, request: ActiveRequest, picture: Any) -> bool:
        """Whether it is no picture; the request has then failed. Raises: SaferPrecisionError."""
        wrong = spoilt.what_is_wrong(picture)
        if wrong is None or (request.number == spoilt.WARM_UP_NUMBER and wrong != spoilt.NOT_A_NUMBER):
            return False
        self._loaded.on_spoilt(wrong)
        request.fail(spoilt.reason(wrong, self._loaded.precision))
        return True

    def _on_out_of_memory(self, channel: WorkChannel, group: Sequence[ActiveRequest], reason: str) -> None:
        """Tries again with fewer at once; ends a request that was alone."""
        images = sum(len(one.params.seeds) for one in group)
        if len(group) == 1:
            group[0].fail(reason)
        else:
            for one in group:
                one.wait()
            self._waiting.extendleft(reversed(group))
        if images > 1:
            self._capacity = max(1, min(self._capacity, images // 2))
            channel.tell(Capacity(self._capacity))
            self._loaded.store.learn(max_area_px=self._capacity * group[0].params.width_px * group[0].params.height_px)
        empty_cache()


def _shared(params: GenerationParams) -> dict[str, Any]:
    """The parameters that all requests of one call have in common."""
    return {name: value for name, value in vars(params).items() if name not in PER_REQUEST}


def _places(group: Sequence[ActiveRequest]) -> list[int]:
    """Of each request's first image among all of the call's."""
    counts = [len(one.params.seeds) for one in group]
    return [sum(counts[:index]) for index in range(len(counts))]


def _pixels(picture: Any) -> Any:
    """(H, W, 3) float 0 to 1 -> uint8, rounded as diffusers does."""
    return (picture * 255).round().astype(np.uint8)
