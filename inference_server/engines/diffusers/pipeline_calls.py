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
from inference_server.engines.diffusers import call_images, cuda_errors, image_tasks, schedulers
from inference_server.engines.diffusers.active_request import ActiveRequest
from inference_server.engines.diffusers.family import Family
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

    pictures: Any  # an array (images, H, W, 3) or a list of such pictures, float, 0 to 1
    nsfw: Sequence[bool] | None  # None: nobody looked


_Part = tuple[ActiveRequest, int]  # one image of a request


class _Callable:
    """A pipeline that does one task, and what its call takes."""

    def __init__(self, pipeline: Any, family: Family | None) -> None:
        parameters = inspect.signature(pipeline.__call__).parameters
        self.pipeline, self._parameters = pipeline, frozenset(parameters)
        self.guidance_argument = guidance_argument(parameters, family)

    def takes(self, name: str) -> bool:
        return name in self._parameters


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
        self._callables: dict[str, _Callable] = {}  # by task
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
            if not group or (images <= self._capacity and _can_share(one.params, group[0].params)):
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
        params = group[0].params
        called = self._callable(params.task)
        for one in group:
            one.unused_words = self._windows.unused_words(one.params.prompt)
            if called.takes("negative_prompt") and self._negative_prompts(group):
                one.unused_negative_words = self._windows.unused_words(one.params.negative_prompt)
        self._latents, self._preview_at_s = None, time.monotonic() + self._preview_every_s
        parts = [(one, image) for one in group for image in range(len(one.params.seeds))]
        if params.image is None:
            result = self._call_part(channel, called, group, parts)
        else:  # of what several seeds make of one image, some pipelines have other ideas than others
            result = _joined([self._call_part(channel, called, group, [part]) for part in parts])
        return None if all(one.ended for one in group) else result

    def _call_part(
        self, channel: WorkChannel, called: "_Callable", group: Sequence[ActiveRequest], parts: Sequence[_Part]
    ) -> _CallResult | None:
        """The pictures of one call. None when nobody waits for them any more."""
        if all(one.ended for one in group):
            return None
        pipeline, params = called.pipeline, group[0].params
        own_scheduler = pipeline.scheduler
        pipeline.scheduler = schedulers.new(self._own_scheduler, params.scheduler)
        if not params.safety_checker and self._own_checker is not None:
            pipeline.safety_checker = None
        self._loaded.loras.use(params.loras)
        self._timer.begin()
        try:
            with torch.inference_mode():
                result = pipeline(**self._arguments(channel, called, group, parts))
        finally:
            pipeline.scheduler = own_scheduler
            if self._own_checker is not None:
                pipeline.safety_checker = self._own_checker
            self._timer.drain()
        # By either name: the second is DeepFloyd's.
        found = getattr(result, "nsfw_content_detected", None) or getattr(result, "nsfw_detected", None)
        checker = self._loaded.checker
        if found is None and checker is not None and params.safety_checker:
            with torch.inference_mode():
                found = [checker.is_unfit(_pixels(picture)) for picture in result.images]
        return _CallResult(result.images, None if found is None else [bool(one) for one in found])

    def _callable(self, task: str) -> "_Callable":
        if task not in self._callables:
            self._callables[task] = _Callable(image_tasks.pipeline_for(self._pipeline, task), self._family)
        return self._callables[task]

    def _arguments(
        self, channel: WorkChannel, called: "_Callable", group: Sequence[ActiveRequest], parts: Sequence[_Part]
    ) -> dict[str, Any]:
        """What the pipeline takes of the requests' parameters; most have diffusers' own names and go as they are."""
        params, on_step = group[0].params, self._on_step(channel, group, parts)
        wanted: dict[str, Any] = {
            **_shared(params),
            "width": params.width_px,
            "height": params.height_px,
            "prompt": [one.params.prompt for one, _ in parts],
            "negative_prompt": self._negative_prompts(group)[: len(parts)],
            "generator": [torch.Generator("cpu").manual_seed(one.params.seeds[image]) for one, image in parts],
            "callback_on_step_end": on_step,
            "output_type": "np",
        }
        if params.image is not None:
            wanted |= call_images.arguments(params, image_tasks.scale_of(called.pipeline))
            wanted["generator"] = wanted["generator"][0]
        if not called.takes("callback_on_step_end"):  # an older pipeline's, which hands over no pipeline
            wanted["callback"] = lambda step, timestep, latents: on_step(
                called.pipeline, step, timestep, {"latents": latents}
            )
        if not wanted["negative_prompt"]:
            del wanted["negative_prompt"]
        guidance = wanted.pop("guidance_scale")
        if called.guidance_argument is not None:
            wanted[called.guidance_argument] = guidance
        if self._family is not None and self._family.max_sequence_length is not None:
            wanted["max_sequence_length"] = self._family.max_sequence_length
        return {name: value for name, value in wanted.items() if value is not None and called.takes(name)}

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

    def _on_step(
        self, channel: WorkChannel, group: Sequence[ActiveRequest], parts: Sequence[_Part]
    ) -> Callable[..., dict[str, Any]]:
        """The pipeline's callback after each step: tells the step, and interrupts when all requests were cancelled."""
        images = len(parts)

        def on_step(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            for one in group:
                one.end_if_cancelled()
            for one, image in parts:
                one.step(image, min(step + 1, one.params.steps_drawn))
            pipeline._interrupt = all(one.ended for one in group)
            if images == sum(len(one.params.seeds) for one in group):
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
        if request.params.is_plain:
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


def _can_share(one: GenerationParams, other: GenerationParams) -> bool:
    """Whether they can be drawn by one call."""
    return one.image is None and _shared(one) == _shared(other)


def _joined(results: Sequence[_CallResult | None]) -> _CallResult | None:
    """Several calls' as if they were one's; None where one has nothing."""
    made = [one for one in results if one is not None]
    if len(made) < len(results):
        return None
    nsfw = [flag for one in made for flag in one.nsfw or ()]
    return _CallResult([picture for one in made for picture in one.pictures], nsfw or None)


def _places(group: Sequence[ActiveRequest]) -> list[int]:
    """Of each request's first image among all of the call's."""
    counts = [len(one.params.seeds) for one in group]
    return [sum(counts[:index]) for index in range(len(counts))]


def _pixels(picture: Any) -> Any:
    """(H, W, 3) float 0 to 1 -> uint8, rounded as diffusers does."""
    return (picture * 255).round().astype(np.uint8)
