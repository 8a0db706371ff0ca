"""The loop of an engine that draws one drawing after the other."""

import time
import traceback
from collections.abc import Callable

from inference_server.engines import WorkChannel, short_reason
from inference_server.messages import BatchStats, Cancelled, Draw, DrawFailed, Drawn, RawImage, Step

# step (1 to n over all images), n, a preview or None -> True to stop
OnStep = Callable[[int, int, RawImage | None], bool]
DrawOne = Callable[[Draw, OnStep], Drawn]  # Raises: DrawingStoppedError


class DrawingStoppedError(Exception):
    """`on_step` asked to stop."""


def work(channel: WorkChannel, draw: DrawOne) -> None:
    """Draws what comes to the channel with `draw`, until it has no more to give."""
    while (order := channel.take()) is not None:
        _draw(channel, draw, order)


def _draw(channel: WorkChannel, draw: DrawOne, order: Draw) -> None:
    step_begun_s = time.monotonic()

    def on_step(step: int, num_steps: int, preview: RawImage | None) -> bool:
        nonlocal step_begun_s
        now_s = time.monotonic()
        channel.tell(Step(order.number, step, num_steps, preview))
        channel.tell(BatchStats(now_s - step_begun_s, images=1, device_bytes=None))
        step_begun_s = now_s
        return channel.is_cancelled(order.number)

    try:
        drawn = draw(order, on_step)
    except DrawingStoppedError:
        channel.tell(Cancelled(order.number))
    except Exception as exc:
        traceback.print_tb(exc.__traceback__)  # without the exception's own text, which may hold the prompt
        channel.tell(DrawFailed(order.number, short_reason(exc)))
    else:
        channel.tell(drawn)
