"""An engine for tests of the engine process itself: no model, no library; a drawing's prompt says what it does.

`python scripted_engine.py FD PID` is the engine process with this engine registered as `scripted`.
"""

import time
from collections.abc import Callable

from inference_server import engine_process
from inference_server.engine_config import ENGINES, EngineConfig
from inference_server.engines import ModelLoadError, WorkChannel
from inference_server.messages import BatchStats, Cancelled, Draw, Drawn, ModelInfo, RawImage, Step

STEP_S = 0.01
MODEL_INFO = ModelInfo(
    name="a-model",
    pipeline="StableDiffusionPipeline",
    width_px=64,
    height_px=64,
    num_inference_steps=5,
    guidance_scale=7.5,
    scheduler="DDIMScheduler",
    schedulers=("DDIMScheduler",),
    max_side_px=64,
    side_multiple_px=64,
    images_at_once=4,
)


class BusyError(ModelLoadError):
    """As an engine raises it when something else holds the device's memory."""

    code = "GPU_BUSY"


class ScriptedEngine:
    """Draws up to 4 at once, a step of each in turn. `model_id` "busy" and "broken" cannot be loaded."""

    def __init__(self, config: EngineConfig, report: Callable[[str], None]) -> None:
        report("loading the model")
        if config.model_id == "busy":
            raise BusyError("1 GiB is free")
        if config.model_id == "broken":
            raise OSError("no such file: unet")
        self.model_info = MODEL_INFO

    def warm_up(self) -> None:
        """Nothing is cold here."""

    def work(self, channel: WorkChannel) -> None:
        """A drawing whose prompt begins with `poison` ends the engine at its second step."""
        drawing: dict[int, tuple[Draw, int]] = {}
        while True:
            while order := channel.take(0 if drawing else None):
                drawing[order.number] = (order, 0)
            time.sleep(STEP_S)  # the step itself
            channel.tell(BatchStats(STEP_S, len(drawing), 1_000_000))
            for number, (order, step) in list(drawing.items()):
                if order.params.prompt.startswith("poison") and step:
                    raise RuntimeError(f"cannot draw {order.params.prompt}")
                drawing[number] = (order, step + 1)
                if self._ended(channel, order, step + 1):
                    del drawing[number]

    def _ended(self, channel: WorkChannel, order: Draw, step: int) -> bool:
        if channel.is_cancelled(order.number):
            channel.tell(Cancelled(order.number))
            return True
        channel.tell(Step(order.number, step, order.params.num_inference_steps, None))
        if step < order.params.num_inference_steps:
            return False
        images = tuple(RawImage(64, 64, bytes(64 * 64 * 3)) for _ in order.params.seeds)
        channel.tell(Drawn(order.number, images, step * STEP_S))
        return True


if __name__ == "__main__":
    ENGINES["scripted"] = "scripted_engine:ScriptedEngine"
    engine_process.main()
