"""Decodes finished images and previews beside the step loop, and tells them."""

import threading
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch

from inference_server.engines.diffusers import cuda_errors
from inference_server.engines.diffusers.active_request import ActiveRequest
from inference_server.engines.diffusers.arrivals import AllTold, Arrivals, make_room
from inference_server.engines.diffusers.decode import Finisher
from inference_server.engines.diffusers.encode import ImageInMaking
from inference_server.engines.diffusers.streams import Lane


@dataclass(frozen=True)
class _Latents:
    """Latents (1, C, h, w) that are complete after `mark` of the step loop's lane."""

    in_hand: ActiveRequest
    latents: torch.Tensor
    mark: Any
    index: int | None  # which of the drawing's images is finished; None: a preview


class FinishingThread:
    """One thread: pictures are told in the order in which they are finished."""

    def __init__(self, finisher: Finisher, device: torch.device, arrivals: Arrivals) -> None:
        self._finisher, self._lane, self._arrivals = finisher, Lane(device), arrivals
        self._queue: SimpleQueue[_Latents | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="finishing", daemon=True)

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be decoded."""
        return self._queue.empty()

    def start(self) -> None:
        self._thread.start()

    def finish(self, image: ImageInMaking, mark: Any) -> None:
        self._queue.put(_Latents(image.in_hand, image.latents, mark, image.index))

    def preview(self, in_hand: ActiveRequest, denoised: torch.Tensor, mark: Any) -> None:
        self._queue.put(_Latents(in_hand, denoised, mark, None))

    def close(self) -> None:
        """No more will come; once all is told, `AllTold` arrives at the loop."""
        self._queue.put(None)

    def _run(self) -> None:
        error: Exception | None = None
        try:
            with self._lane.entered():
                while (one := self._queue.get()) is not None:
                    self._do(one)
        except Exception as exc:
            error = exc
        self._arrivals.put(AllTold(error))

    def _do(self, one: _Latents) -> None:
        """A picture that memory is too short for is tried once more when the step loop has made room.

        Raises: what leaves the process unfit to go on; anything else ends this drawing alone.
        """
        if one.in_hand.end_if_cancelled():
            return
        self._lane.adopt([one.latents], after=one.mark)
        if self._is_done(one, last=one.index is None):
            return
        make_room(self._arrivals)
        self._is_done(one, last=True)

    def _is_done(self, one: _Latents, *, last: bool) -> bool:
        """Whether it has come to an end, good or bad; False when memory was short and this was not the `last` try."""
        try:
            if one.index is None:
                self._finisher.preview(one.in_hand, one.latents)
            else:
                self._finisher.finish(one.in_hand, one.index, one.latents)
        except Exception as exc:
            if cuda_errors.is_fatal(exc):
                raise
            cuda_errors.log_without_text(exc)
            short = cuda_errors.is_out_of_memory(exc)
            drawing = one.in_hand.drawing
            reason = cuda_errors.drawing_reason(exc, drawing.width_px, drawing.height_px)
        else:
            return True
        if short and not last:
            return False
        if one.index is not None:  # a preview is no loss
            one.in_hand.fail(reason)
        return True
