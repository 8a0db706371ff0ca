"""The loop of an engine that draws one drawing after the other."""

import time
import traceback
from collections.abc import Callable

from inference_server.engine_errors import short_reason
from inference_server.engines import Desk
from inference_server.messages import Cancelled, Draw, DrawFailed, Drawing, Drawn, RawImage, Step

# step (1 to n over all images), n, a preview or None -> True to stop
OnStep = Callable[[int, int, RawImage | None], bool]
DrawOne = Callable[[Drawing, OnStep], tuple[RawImage, ...]]  # Raises: DrawingStoppedError


class DrawingStoppedError(Exception):
    """`on_step` asked to stop."""


def work(desk: Desk, draw: DrawOne) -> None:
    """Draws what comes to the desk with `draw`, for ever."""
    while True:
        order = desk.take()
        if order is not None:
            _draw(desk, draw, order)


def _draw(desk: Desk, draw: DrawOne, order: Draw) -> None:
    def on_step(step: int, num_steps: int, preview: RawImage | None) -> bool:
        desk.tell(Step(order.number, step, num_steps, preview))
        return desk.is_cancelled(order.number)

    started_s = time.monotonic()
    try:
        images = draw(order.drawing, on_step)
    except DrawingStoppedError:
        desk.tell(Cancelled(order.number))
    except Exception as exc:
        traceback.print_tb(exc.__traceback__)  # without the exception's own text, which may hold the prompt
        desk.tell(DrawFailed(order.number, short_reason(exc)))
    else:
        desk.tell(Drawn(order.number, images, time.monotonic() - started_s))
