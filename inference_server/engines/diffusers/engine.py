"""The diffusers engine, put together: it loads the model and chooses how its kind of pipeline is drawn with."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import inference_server.engines.diffusers.lean_imports  # noqa: F401 (before diffusers)

# isort: split
import torch
from diffusers import (
    LatentConsistencyModelPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from inference_server.engine_config import EngineConfig
from inference_server.engines import ModelLoadError, WorkChannel
from inference_server.engines.diffusers import cuda_errors, image_tasks, loading, long_prompts, model_info, schedulers
from inference_server.engines.diffusers.adapters import adapter as adapters
from inference_server.engines.diffusers.adapters.adapter import Adapter
from inference_server.engines.diffusers.adapters.drawer import AdapterDrawer
from inference_server.engines.diffusers.adapters.encoder import AdapterEncoder
from inference_server.engines.diffusers.batch_queue import BUCKETS, BatchLimits, buckets_up_to
from inference_server.engines.diffusers.compiling import make_runner
from inference_server.engines.diffusers.continuous_batching import ContinuousBatching
from inference_server.engines.diffusers.encode import RequestEncoder
from inference_server.engines.diffusers.gpu_memory import others_may_be_to_blame
from inference_server.engines.diffusers.loading import LoadedPipeline
from inference_server.engines.diffusers.pipeline_calls import IMAGES_AT_ONCE, PipelineCalls
from inference_server.engines.diffusers.streams import empty_cache, synchronize
from inference_server.engines.diffusers.unet import EagerUNet
from inference_server.engines.lanczos import LanczosChannel
from inference_server.messages import (
    LONG_PROMPTS,
    PROMPT_WEIGHTING,
    Draw,
    DrawFailed,
    Drawn,
    FromEngine,
    GenerationParams,
    ModelInfo,
    RawImage,
)
from inference_server.tasks import LANCZOS, TEXT2IMAGE

# How long a thread that encodes or decodes may keep Python to itself while the step loop wants it. The loop lets go at
# each of a step's thousand calls; at Python's own 5 ms a newcomer would hold up everybody's steps.
SWITCH_INTERVAL_S = 0.0005
SHARING = (StableDiffusionPipeline, StableDiffusionXLPipeline, LatentConsistencyModelPipeline)
WARM_UP_PROMPT = "a red apple beside a blue bird"


class DiffusersEngine:
    """A pipeline of diffusers in memory."""

    def __init__(self, config: EngineConfig, report: Callable[[str], None]) -> None:
        """Raises: ModelLoadError, GpuBusyError."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        loaded = loading.load(config, report)
        shares = shares_steps(loaded.pipeline) and loaded.plan.placement in ("card", "encoders")
        # Where a plan keeps parts off the card, the pipeline's own call moves them.
        adapter = adapters.find(loaded.pipeline) if loaded.plan.placement == "card" else None
        images = min(config.max_batch, BUCKETS[-1] if shares else IMAGES_AT_ONCE)
        more = (LONG_PROMPTS, PROMPT_WEIGHTING) if shares and long_prompts.is_available() else ()
        info = model_info.of_pipeline(loaded, images, more)
        self.model_info = _within(info, loaded.store.known.max_area_px)
        if (shares or adapter) and loaded.device.type == "cuda":
            schedulers.use_pinned_noise()
        self._loaded = loaded
        self._drawer: ContinuousBatching | AdapterDrawer | PipelineCalls
        with self._others_may_be_to_blame():
            if shares:
                self._drawer = _continuous_batching(loaded, config, self.model_info)
            else:
                self._drawer = PipelineCalls(loaded, self.model_info.images_at_once)
                if adapter is not None:
                    self._drawer = AdapterDrawer(_transformer_steps(loaded, adapter, self.model_info), self._drawer)
            synchronize(loaded.device)  # the weights are in place for every stream

    def warm_up(self) -> None:
        """Draws one small picture as all pictures are drawn: the engine is healthy only if its device draws.

        Raises: ModelLoadError, GpuBusyError, or what the device raises.
        """
        channel = WarmUpChannel(small_drawing(self.model_info))
        with self._others_may_be_to_blame():
            self._drawer.work(channel)
            channel.check()
        empty_cache()  # the first picture took more than most do: others on this card can have it

    def work(self, channel: WorkChannel) -> None:
        self._drawer.work(LanczosChannel(channel) if LANCZOS in self.model_info.image_tasks else channel)

    def _others_may_be_to_blame(self) -> AbstractContextManager[None]:
        return others_may_be_to_blame(self._loaded.device, self._loaded.plan.needed_bytes)


def _within(info: ModelInfo, max_area_px: int | None) -> ModelInfo:
    """`max_area_px`: what memory sufficed for at an earlier time; None: it was never short."""
    if max_area_px is None:
        return info
    images = max(1, min(info.images_at_once, max_area_px // (info.width_px * info.height_px)))
    return replace(info, images_at_once=images, images_ahead=images if images > 1 else 0)


def shares_steps(pipeline: Any) -> bool:
    """Whether its UNet can be called as `unet.call_unet` does it, with nothing but text."""
    if type(pipeline) not in SHARING or not isinstance(pipeline.unet, UNet2DConditionModel):
        return False
    config = pipeline.unet.config
    if not image_tasks.is_plain(pipeline) and not image_tasks.fills(pipeline):
        return False
    return config.encoder_hid_dim_type is None and config.addition_embed_type in (None, "text_time")


def _continuous_batching(loaded: LoadedPipeline, config: EngineConfig, info: ModelInfo) -> ContinuousBatching:
    encoder = RequestEncoder(loaded.pipeline, loaded.device, loaded.loras)
    sizes = encoder.input_sizes(small_drawing(info))
    unet, switch = loaded.pipeline.unet, loaded.loras.switches.get("unet")
    compiles = loaded.plan.compiles
    runner = make_runner(unet, sizes, config, info, switch) if compiles else EagerUNet(unet, sizes, switch)
    limits = BatchLimits(info.images_at_once, buckets_up_to(info.images_at_once), info.width_px * info.height_px)
    return ContinuousBatching(loaded, encoder, runner, limits)


def _transformer_steps(loaded: LoadedPipeline, adapter: Adapter, info: ModelInfo) -> ContinuousBatching:
    encoder, switch = AdapterEncoder(loaded, adapter), loaded.loras.switches.get("transformer")
    sizes = encoder.input_sizes(small_drawing(info))
    runner = EagerUNet(loaded.pipeline.transformer, sizes, switch, adapter.forward)
    limits = BatchLimits(info.images_at_once, buckets_up_to(info.images_at_once), info.width_px * info.height_px)
    return ContinuousBatching(loaded, encoder, runner, limits)


class WarmUpChannel(WorkChannel):
    """A channel of one drawing: gives it, and keeps what becomes of it."""

    def __init__(self, params: GenerationParams) -> None:
        self._orders = [Draw(0, params)]
        self._end: FromEngine | None = None

    def take(self, timeout_s: float | None = None) -> Draw | None:
        return self._orders.pop() if self._orders else None

    def is_cancelled(self, number: int) -> bool:
        return False

    def tell(self, message: FromEngine) -> None:
        if isinstance(message, Drawn | DrawFailed):
            self._end = message

    def check(self) -> None:
        """Raises: ModelLoadError, unless the picture was drawn; caused by an OutOfMemoryError if memory was short."""
        if isinstance(self._end, Drawn):
            return
        reason = self._end.reason if isinstance(self._end, DrawFailed) else "the engine gave no picture"
        cause = torch.OutOfMemoryError(reason) if reason.startswith(cuda_errors.MEMORY_SHORT) else None
        raise ModelLoadError(f"the model was loaded, but its first picture failed: {reason}") from cause


def small_drawing(info: ModelInfo) -> GenerationParams:
    """One step of a picture. A GPU draws the default size, to prove that its memory suffices; a CPU half the side."""
    share, multiple = (1 if info.gpu else 2), info.side_multiple_px

    def side(px: int) -> int:
        smallest = -(-64 // multiple) * multiple
        return max(smallest, px // share // multiple * multiple)

    return GenerationParams(
        prompt=WARM_UP_PROMPT,
        negative_prompt="",
        width_px=side(info.width_px),
        height_px=side(info.height_px),
        num_inference_steps=1,
        guidance_scale=info.guidance_scale,
        scheduler=info.scheduler,
        seeds=(0,),
        **_from_image(info, side),
    )


def _from_image(info: ModelInfo, side: Callable[[int], int]) -> dict[str, Any]:
    """For a model that draws from images alone: a grey one, and half of it to fill."""
    if TEXT2IMAGE in info.features:
        return {}
    task, width, height = info.image_tasks[0], side(info.width_px), side(info.height_px)
    grey = RawImage(width, height, bytes([128]) * (3 * width * height))
    mask = RawImage(width, height, (bytes(3 * width) + bytes([255]) * (3 * width)) * (height // 2))
    return {
        "task": task.name,
        "strength": None if task.strength is None else 1.0,
        "image": grey,
        "mask_image": mask if "mask_image" in task.needs else None,
    }
