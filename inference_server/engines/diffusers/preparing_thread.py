"""Takes drawings from the desk and prepares them while the step loop runs, so that a newcomer holds nobody up."""

import threading

import torch

from inference_server.engine_errors import short_reason
from inference_server.engines import Desk
from inference_server.engines.diffusers import faults
from inference_server.engines.diffusers.arrivals import Arrivals, Ended, Prepared
from inference_server.engines.diffusers.device_work import Lane, give_memory_back
from inference_server.engines.diffusers.in_hand import InHand
from inference_server.engines.diffusers.preparing import Preparer


class PreparingThread:
    """Ends when the desk has no more to give."""

    def __init__(self, preparer: Preparer, device: torch.device, arrivals: Arrivals) -> None:
        self._preparer, self._lane, self._arrivals = preparer, Lane(device), arrivals

    def start(self, desk: Desk) -> None:
        threading.Thread(target=self._run, args=(desk,), name="preparing", daemon=True).start()

    def _run(self, desk: Desk) -> None:
        error: Exception | None = None
        try:
            with self._lane.entered():
                while (order := desk.take()) is not None:
                    self._prepare(InHand(order, desk))
        except Exception as exc:
            error = exc
        self._arrivals.put(Ended(error))

    def _prepare(self, in_hand: InHand) -> None:
        """Raises: what leaves the process unfit to go on; anything else ends this drawing alone."""
        if in_hand.end_if_cancelled():
            return
        try:
            images = self._preparer.prepare(in_hand)
            self._lane.flush()
        except Exception as exc:
            if faults.is_fatal(exc):
                raise
            faults.log_without_text(exc)
            short = faults.is_out_of_memory(exc)
            drawing = in_hand.drawing
            in_hand.fail(
                faults.drawing_reason(exc, drawing.width_px, drawing.height_px) if short else short_reason(exc)
            )
        else:
            in_hand.wait()
            self._arrivals.put(Prepared(tuple(images)))
            return
        if short:
            give_memory_back()
