"""The diffusers engine, put together: load, look what kind of pipeline it is, choose the loop that fits it."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from diffusers import (
    LatentConsistencyModelPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from inference_server.engine_config import EngineConfig
from inference_server.engines import WorkChannel
from inference_server.engines.diffusers import loading, model_info, noise
from inference_server.engines.diffusers.continuous_batching import BUCKETS, Room, buckets_up_to
from inference_server.engines.diffusers.encode import Preparer
from inference_server.engines.diffusers.gpu_memory import others_may_be_to_blame
from inference_server.engines.diffusers.loading import LoadedPipeline
from inference_server.engines.diffusers.pipeline_calls import IMAGES_AT_ONCE, PipelineCalls
from inference_server.engines.diffusers.runner import make_runner
from inference_server.engines.diffusers.shared_steps import SharedSteps
from inference_server.engines.diffusers.streams import settle
from inference_server.engines.diffusers.warm_up import WarmUpChannel, small_drawing
from inference_server.messages import ModelInfo

# How long a thread that prepares or finishes may keep Python to itself while the step loop wants it: the loop lets go
# at each of a step's thousand calls, and at the usual 5 ms a newcomer would hold up everybody's steps.
SWITCH_INTERVAL_S = 0.0005
SHARING = (StableDiffusionPipeline, StableDiffusionXLPipeline, LatentConsistencyModelPipeline)


class Drawer(Protocol):
    """A way to draw what comes to a channel."""

    def work(self, channel: WorkChannel) -> None:
        """Draws until the channel has no more to give. Raises: whatever leaves the process unfit to go on."""


class DiffusersEngine:
    """A pipeline of diffusers' in memory."""

    def __init__(self, order: EngineConfig, report: Callable[[str], None]) -> None:
        """Raises: ModelLoadError, GpuBusyError."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        loaded = loading.load(order, report)
        shares = shares_steps(loaded.pipeline)
        self.model_info = model_info.of_pipeline(
            loaded, min(order.max_batch, BUCKETS[-1] if shares else IMAGES_AT_ONCE)
        )
        if shares and loaded.device.type == "cuda":
            noise.do_not_wait()
        self._device, self._weights_bytes = loaded.device, loaded.weights_bytes
        with self._others_may_be_to_blame():
            self._drawer = _sharing(loaded, order, self.model_info) if shares else _calling(loaded, self.model_info)
            settle(loaded.device)

    def warm_up(self) -> None:
        """One small picture by the way that all pictures take: healthy means that the device drew.

        Raises: ModelLoadError, GpuBusyError, or what the device raises.
        """
        channel = WarmUpChannel(small_drawing(self.model_info))
        with self._others_may_be_to_blame():
            self._drawer.work(channel)
            channel.check()

    def work(self, channel: WorkChannel) -> None:
        self._drawer.work(channel)

    def _others_may_be_to_blame(self) -> AbstractContextManager[None]:
        return others_may_be_to_blame(self._device, self._weights_bytes)


def shares_steps(pipeline: Any) -> bool:
    """Whether its UNet is called as `unet.call_unet` does it, with nothing but text."""
    if type(pipeline) not in SHARING or not isinstance(pipeline.unet, UNet2DConditionModel):
        return False
    config = pipeline.unet.config
    return config.encoder_hid_dim_type is None and config.addition_embed_type in (None, "text_time")


def _sharing(loaded: LoadedPipeline, order: EngineConfig, facts: ModelInfo) -> Drawer:
    preparer = Preparer(loaded.pipeline, loaded.device)
    sizes = preparer.input_sizes(small_drawing(facts))
    runner = make_runner(loaded.pipeline.unet, sizes, order, facts)
    room = Room(facts.images_at_once, buckets_up_to(facts.images_at_once), facts.width_px * facts.height_px)
    return SharedSteps(loaded.pipeline, loaded.device, preparer, runner, room)


def _calling(loaded: LoadedPipeline, facts: ModelInfo) -> Drawer:
    return PipelineCalls(loaded.pipeline, loaded.device, facts.images_at_once)
