"""A test's side of the diffusers engine: a channel that follows a script, a UNet that a test can act in."""

import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import diffusers
import numpy as np
import torch

from inference_server.engine_config import EngineConfig
from inference_server.engines import WorkChannel
from inference_server.engines.diffusers.batch_queue import BatchLimits, buckets_up_to
from inference_server.engines.diffusers.continuous_batching import ContinuousBatching
from inference_server.engines.diffusers.encode import RequestEncoder
from inference_server.engines.diffusers.engine import small_drawing
from inference_server.engines.diffusers.learnt import LearntStore
from inference_server.engines.diffusers.loading import LoadedPipeline, load
from inference_server.engines.diffusers.model_info import of_pipeline
from inference_server.engines.diffusers.unet import BatchShape, EagerUNet, UNetInputs
from inference_server.engines.scheduler_names import class_of
from inference_server.messages import (
    BatchStats,
    Cancelled,
    Draw,
    DrawFailed,
    Drawn,
    FromEngine,
    GenerationParams,
    ModelInfo,
    RawImage,
    Step,
)
from tests.support import tiny_pipelines

DEADLINE_S = 60.0


class ScriptedChannel(WorkChannel):
    """Orders are given by the test, what is told is kept."""

    def __init__(self, *orders: Draw) -> None:
        self._orders: SimpleQueue[Draw | None] = SimpleQueue()
        self._changed = threading.Condition()
        self._cancelled: set[int] = set()
        self._asked = self._given = 0
        self.told: list[FromEngine] = []
        for order in orders:
            self.give(order)

    def give(self, order: Draw) -> None:
        self._given += 1
        self._orders.put(order)

    def join(self, *orders: Draw) -> None:
        """To be called before a step: they come now, are encoded when this returns, and share the step after it."""
        for order in orders:
            self.give(order)
        # Whoever takes orders and asks for one more than was given is done with those.
        self._wait(lambda: self._asked > self._given, "all orders to be encoded")

    def close(self) -> None:
        """No more orders: the loop ends when all are done."""
        self._orders.put(None)

    def cancel(self, number: int) -> None:
        self._cancelled.add(number)

    def take(self, timeout_s: float | None = None) -> Draw | None:
        with self._changed:
            self._asked += 1
            self._changed.notify_all()
        try:
            order = self._orders.get(block=timeout_s != 0, timeout=timeout_s)
        except Empty:
            return None
        if order is None:
            self.close()  # and stays closed
        return order

    def is_cancelled(self, number: int) -> bool:
        return number in self._cancelled

    def tell(self, message: FromEngine) -> None:
        with self._changed:
            self.told.append(message)
            self._changed.notify_all()

    def end_of(self, number: int) -> Drawn | DrawFailed | Cancelled:
        """The message that ends the drawing."""
        return self._wait(lambda: self._find_end(number), f"the end of drawing {number}")  # type: ignore[no-any-return]

    def reason_of(self, number: int) -> str:
        """Why the drawing failed; one that ended otherwise fails the test."""
        end = self.end_of(number)
        assert isinstance(end, DrawFailed), end
        return end.reason

    def picture_of(self, number: int, image: int = 0) -> Any:
        """(H, W, 3) uint8; a failed drawing fails the test with its reason."""
        end = self.end_of(number)
        assert isinstance(end, Drawn), end
        return pixels(end.images[image])

    def steps_of(self, number: int) -> list[Step]:
        return [message for message in self.told if isinstance(message, Step) and message.number == number]

    def batches(self) -> list[int]:
        """Images of each step of the UNet."""
        return [message.images for message in self.told if isinstance(message, BatchStats)]

    def _find_end(self, number: int) -> FromEngine | None:
        ends = [one for one in self.told if isinstance(one, Drawn | DrawFailed | Cancelled) and one.number == number]
        assert len(ends) <= 1, f"drawing {number} ended more than once: {ends}"
        return ends[0] if ends else None

    def _wait(self, met: Callable[[], Any], what: str) -> Any:
        with self._changed:
            answer = self._changed.wait_for(met, timeout=DEADLINE_S)
        assert answer, f"waited {DEADLINE_S:g} s in vain for {what}"
        return answer


class WatchedUNet(EagerUNet):
    """Keeps the shapes of all calls; `before_call(number)` runs before each, numbered from 1, and may raise."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.shapes: list[BatchShape] = []
        self.forgotten: list[BatchShape | None] = []
        self.before_call: Callable[[int], None] = lambda number: None

    def run(self, shape: BatchShape, inputs: UNetInputs) -> torch.Tensor:
        self.shapes.append(shape)
        self.before_call(len(self.shapes))
        return super().run(shape, inputs)

    def forget(self, shape: BatchShape | None = None) -> None:
        self.forgotten.append(shape)
        super().forget(shape)


class Rig:
    """The loop of one model with a watched UNet; `draw` works until all orders are done."""

    def __init__(
        self,
        kind: str = "sd",
        buckets: Sequence[int] | None = None,
        capacity: int | None = None,
        encoder: type[RequestEncoder] = RequestEncoder,
        preview_every_s: float = 3600.0,
        precision: str = "fp32",
    ) -> None:
        model = with_nothing_learnt(loaded(kind, precision))
        info = model_info(kind, precision)
        buckets = tuple(buckets or buckets_up_to(16))
        encoding = encoder(model.pipeline, model.device, model.loras)
        sizes = encoding.input_sizes(small_drawing(info))
        self.unet = WatchedUNet(model.pipeline.unet, sizes, model.loras.switches.get("unet"))
        limits = BatchLimits(capacity or buckets[-1], buckets, info.width_px * info.height_px)
        self.steps = ContinuousBatching(model, encoding, self.unet, limits, preview_every_s)

    def draw(self, first: Draw, *others: Draw) -> ScriptedChannel:
        """The first has its first step alone; the others, encoded meanwhile, share its second."""
        channel = ScriptedChannel(first)

        def others_come() -> None:
            channel.join(*others)
            channel.close()

        if others:
            self.at_call(1, others_come)
            self.steps.work(channel)
        else:
            self.work(channel)
        return channel

    def work(self, channel: ScriptedChannel) -> None:
        """Until all that was given is done."""
        channel.close()
        self.steps.work(channel)

    def at_call(self, number: int, act: Callable[[], None]) -> None:
        """Before call `number` of the UNet, counted from now."""
        at = len(self.unet.shapes) + number

        def before_call(call: int) -> None:
            if call == at:
                act()

        self.unet.before_call = before_call


def with_nothing_learnt(model: LoadedPipeline) -> LoadedPipeline:
    """What one test's shortness of memory taught is not known to the next test."""
    return dataclasses.replace(model, store=LearntStore(None, ""))


def loaded(kind: str, precision: str = "fp32") -> LoadedPipeline:
    """The same for the same arguments, however they are given: a test may hook what a rig draws with."""
    return _loaded(kind, precision)


@functools.cache
def _loaded(kind: str, precision: str) -> LoadedPipeline:
    torch.set_num_threads(1)  # such small tensors are not worth a second thread
    folder = str(tiny_pipelines.folder(kind))
    config = EngineConfig(engine="diffusers", model_id=folder, model_precision=precision, device="cpu")
    return load(config, lambda stage: None)


@functools.cache
def model_info(kind: str, precision: str = "fp32") -> ModelInfo:
    return of_pipeline(loaded(kind, precision), images_at_once=16)


def order(number: int = 1, **changes: Any) -> Draw:
    """Four steps of DDIM at 64x64 px with guidance, unless `changes` say otherwise; the seed is the number."""
    values: dict[str, Any] = {
        "prompt": f"drawing {number}",
        "negative_prompt": "",
        "width_px": 64,
        "height_px": 64,
        "num_inference_steps": 4,
        "guidance_scale": 7.5,
        "scheduler": "DDIMScheduler",
        "seeds": (number,),
    }
    return Draw(number, GenerationParams(**(values | changes)))


@dataclass(frozen=True)
class ParamsWithEta(GenerationParams):
    """A parameter that diffusers knows and no module of the engine names: how much noise DDIM adds."""

    eta: float = 0.0


def with_eta(order: Draw, eta: float) -> Draw:
    return Draw(order.number, ParamsWithEta(**vars(order.params), eta=eta))


def own_picture(
    kind: str, params: GenerationParams, precision: str = "fp32", with_prompts: bool = True, **arguments: Any
) -> Any:
    """What diffusers' own call, with these `arguments` too, makes of a drawing of one image, (H, W, 3) uint8."""
    pipeline = loaded(kind, precision).pipeline
    own = pipeline.scheduler
    kind, settings = class_of(params.scheduler)
    pipeline.scheduler = getattr(diffusers, kind).from_config(own.config, **settings)
    if hasattr(pipeline.scheduler, "noise_sampler_seed"):
        pipeline.scheduler.noise_sampler_seed = params.seeds[0]
    prompts: dict[str, Any] = {"prompt": params.prompt} if with_prompts else {}
    if kind != "lcm" and with_prompts:
        prompts["negative_prompt"] = params.negative_prompt or None
    try:
        result = pipeline(
            height=params.height_px,
            width=params.width_px,
            num_inference_steps=params.num_inference_steps,
            guidance_scale=params.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(params.seeds[0]),
            **prompts,
            **arguments,
        )
    finally:
        pipeline.scheduler = own
    return np.asarray(result.images[0])


def pixels(image: RawImage) -> Any:
    """(H, W, 3) uint8."""
    return np.frombuffer(image.rgb, np.uint8).reshape(image.height_px, image.width_px, 3)


def difference(one: Any, other: Any) -> int:
    """The largest of all pixels and colours, of 255."""
    return int(np.abs(one.astype(int) - other.astype(int)).max())
