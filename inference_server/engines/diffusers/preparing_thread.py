"""Takes drawings from the channel and prepares them while the step loop runs, so that a newcomer holds nobody up."""

import threading

import torch

from inference_server.engines import WorkChannel
from inference_server.engines.diffusers import cuda_errors
from inference_server.engines.diffusers.active_request import ActiveRequest
from inference_server.engines.diffusers.arrivals import Arrivals, Ended, Prepared, make_room
from inference_server.engines.diffusers.encode import Preparer
from inference_server.engines.diffusers.streams import Lane


class PreparingThread:
    """Ends when the channel has no more to give."""

    def __init__(self, preparer: Preparer, device: torch.device, arrivals: Arrivals) -> None:
        self._preparer, self._lane, self._arrivals = preparer, Lane(device), arrivals

    def start(self, channel: WorkChannel) -> None:
        threading.Thread(target=self._run, args=(channel,), name="preparing", daemon=True).start()

    def _run(self, channel: WorkChannel) -> None:
        error: Exception | None = None
        try:
            with self._lane.entered():
                while (order := channel.take()) is not None:
                    self._prepare(ActiveRequest(order, channel))
        except Exception as exc:
            error = exc
        self._arrivals.put(Ended(error))

    def _prepare(self, in_hand: ActiveRequest) -> None:
        """A drawing that memory is too short for is tried once more when the step loop has made room.

        Raises: what leaves the process unfit to go on; anything else ends this drawing alone.
        """
        if in_hand.end_if_cancelled() or self._is_done(in_hand, last=False):
            return
        make_room(self._arrivals)
        self._is_done(in_hand, last=True)

    def _is_done(self, in_hand: ActiveRequest, *, last: bool) -> bool:
        """Whether it was handed on or failed; False when memory was short and this was not the `last` try."""
        try:
            images = self._preparer.prepare(in_hand)
            self._lane.flush()
        except Exception as exc:
            if cuda_errors.is_fatal(exc):
                raise
            cuda_errors.log_without_text(exc)
            short = cuda_errors.is_out_of_memory(exc)
            drawing = in_hand.drawing
            reason = cuda_errors.drawing_reason(exc, drawing.width_px, drawing.height_px)
        else:
            in_hand.wait()
            self._arrivals.put(Prepared(tuple(images)))
            return True
        if short and not last:
            return False
        in_hand.fail(reason)
        return True
