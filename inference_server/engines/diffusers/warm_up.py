"""A channel of one drawing: the first picture takes the way of all others, before the engine says that it is ready."""

import torch

from inference_server.engines import ModelLoadError, WorkChannel
from inference_server.engines.diffusers import cuda_errors
from inference_server.messages import Draw, DrawFailed, Drawn, FromEngine, GenerationParams, ModelInfo

PROMPT = "a red apple beside a blue bird"


class WarmUpChannel(WorkChannel):
    """Gives one small drawing and keeps what becomes of it."""

    def __init__(self, drawing: GenerationParams) -> None:
        self._orders = [Draw(0, drawing)]
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
        reason = self._end.reason if isinstance(self._end, DrawFailed) else "nothing came of it"
        cause = torch.OutOfMemoryError(reason) if reason.startswith(cuda_errors.MEMORY_SHORT) else None
        raise ModelLoadError(f"the model was loaded, but its first picture failed: {reason}") from cause


def small_drawing(facts: ModelInfo) -> GenerationParams:
    """A GPU draws the default size, so that its memory is known to suffice; on the CPU a quarter of it will do."""
    share, multiple = (1 if facts.gpu else 2), facts.side_multiple_px

    def side(px: int) -> int:
        smallest = -(-64 // multiple) * multiple
        return max(smallest, px // share // multiple * multiple)

    return GenerationParams(
        prompt=PROMPT,
        negative_prompt="",
        width_px=side(facts.width_px),
        height_px=side(facts.height_px),
        num_inference_steps=1,
        guidance_scale=facts.guidance_scale,
        scheduler=facts.scheduler,
        seeds=(0,),
    )
