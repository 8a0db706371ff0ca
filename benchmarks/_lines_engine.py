"""An engine that draws noise at once, and notes each picture that it has finished. Run as the engine process."""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from inference_server import engine_process
from inference_server.engine_config import ENGINES, EngineConfig
from inference_server.engines import WorkChannel
from inference_server.messages import BatchStats, Cancelled, Draw, Drawn, ModelInfo, RawImage, Step
from inference_server.tasks import IMG2IMG, Task

NAME = "noise"
SIDE_MAX_PX = 512
DRAWN_FILE = "LINES_DRAWN_FILE"  # in the environment: where finished pictures are noted, a line each: time, prompt
STEP_S = "LINES_STEP_S"  # in the environment: seconds that a step takes, 0.05 unless set
_STEP_S = float(os.environ.get(STEP_S, "0.05"))
_MODEL_INFO = ModelInfo(
    name=NAME,
    pipeline="StableDiffusionPipeline",
    width_px=64,
    height_px=64,
    num_inference_steps=5,
    guidance_scale=7.5,
    scheduler="DDIMScheduler",
    schedulers=("DDIMScheduler",),
    max_side_px=SIDE_MAX_PX,
    side_multiple_px=64,
    images_at_once=4,
    features=("text2image", "negative_prompt", "guidance", IMG2IMG),
    image_tasks=(Task(IMG2IMG, "StableDiffusionImg2ImgPipeline", strength=0.8),),
)


def noise(seed: int, width_px: int, height_px: int) -> bytes:
    """RGB, row by row: no compression makes it smaller, and each seed's differs from every other's."""
    return random.Random(seed).randbytes(width_px * height_px * 3)


class NoiseEngine:
    """Draws up to 4 at once, a step of each in turn."""

    def __init__(self, config: EngineConfig, report: Callable[[str], None]) -> None:
        self.model_info = _MODEL_INFO
        self._drawn = Path(os.environ[DRAWN_FILE])

    def warm_up(self) -> None:
        """Nothing is cold here."""

    def work(self, channel: WorkChannel) -> None:
        """See `Engine`."""
        drawing: dict[int, tuple[Draw, int]] = {}
        while True:
            while order := channel.take(0 if drawing else None):
                drawing[order.number] = (order, 0)
            time.sleep(_STEP_S)
            channel.tell(BatchStats(_STEP_S, len(drawing), 1_000_000))
            for number, (order, step) in list(drawing.items()):
                drawing[number] = (order, step + 1)
                if self._ended(channel, order, step + 1):
                    del drawing[number]

    def _ended(self, channel: WorkChannel, order: Draw, step: int) -> bool:
        params = order.params
        if channel.is_cancelled(order.number):
            channel.tell(Cancelled(order.number))
            return True
        channel.tell(Step(order.number, step, params.num_inference_steps, None))
        if step < params.num_inference_steps:
            return False
        width, height = params.width_px, params.height_px
        images = tuple(RawImage(width, height, noise(seed, width, height)) for seed in params.seeds)
        with self._drawn.open("a") as file:
            file.write(f"{time.monotonic():.3f} {params.prompt}\n")
        channel.tell(Drawn(order.number, images, step * _STEP_S))
        return True


if __name__ == "__main__":
    ENGINES[NAME] = "benchmarks._lines_engine:NoiseEngine"
    engine_process.main()
