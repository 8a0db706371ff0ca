"""One request in the diffusers engine: the time that its result states."""

import numpy as np

from inference_server.engines import WorkChannel
from inference_server.engines.diffusers.active_request import ActiveRequest
from inference_server.messages import Draw, Drawn, FromEngine, GenerationParams

DRAWING = GenerationParams(
    prompt="a red apple",
    negative_prompt="",
    width_px=8,
    height_px=8,
    num_inference_steps=2,
    guidance_scale=2.0,
    scheduler="DDIMScheduler",
    seeds=(1,),
)


class _Told(WorkChannel):
    def __init__(self) -> None:
        self.messages: list[FromEngine] = []

    def tell(self, message: FromEngine) -> None:
        self.messages.append(message)

    def take(self, timeout_s: float | None = None) -> Draw | None:
        return None

    def is_cancelled(self, number: int) -> bool:
        return False


def test_waiting_for_a_place_is_no_drawing() -> None:
    """The time told of a drawing is that of its preparation and its steps, not the wait between them."""
    now_s = 0.0
    channel = _Told()
    request = ActiveRequest(Draw(7, DRAWING), channel, clock=lambda: now_s)
    now_s = 1.0
    request.wait()
    now_s = 11.0
    request.begin()
    request.begin()  # a second image of the same drawing
    request.wait()  # memory was short, it is to begin anew
    now_s = 21.0
    request.begin()
    now_s = 23.0
    request.finish(0, np.zeros((8, 8, 3), np.uint8), None, mem_usage=0.5)
    (drawn,) = channel.messages
    assert isinstance(drawn, Drawn)
    assert (drawn.inference_s, drawn.mem_usage) == (3.0, 0.5)
