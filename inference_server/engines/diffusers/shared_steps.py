"""Draws with a UNet pipeline whose steps all drawings share; puts the parts together for a channel."""

from queue import SimpleQueue
from typing import Any

import torch

from inference_server.engines import WorkChannel
from inference_server.engines.diffusers.arrivals import Arrivals
from inference_server.engines.diffusers.continuous_batching import PREVIEW_EVERY_S, ContinuousBatching, Room
from inference_server.engines.diffusers.decode import Finisher
from inference_server.engines.diffusers.encode import Preparer
from inference_server.engines.diffusers.finishing_thread import FinishingThread
from inference_server.engines.diffusers.predicted import PredictedOriginal
from inference_server.engines.diffusers.preparing_thread import PreparingThread
from inference_server.engines.diffusers.unet import UNetRunner
from inference_server.engines.previews import PreviewMap


class SharedSteps:
    """One model in memory; it may work for several desks, one after the other."""

    def __init__(
        self,
        pipeline: Any,
        device: torch.device,
        preparer: Preparer,
        runner: UNetRunner,
        room: Room,
        preview_every_s: float = PREVIEW_EVERY_S,
    ) -> None:
        self._device, self._runner, self._room = device, runner, room
        self._preparer, self._preview_every_s = preparer, preview_every_s
        self._finisher = Finisher(pipeline, device, PreviewMap())
        self._predicted = PredictedOriginal(pipeline.scheduler)

    def work(self, channel: WorkChannel) -> None:
        """Draws until the channel has no more to give and all is told.

        Raises: whatever leaves the process unfit to go on.
        """
        arrivals: Arrivals = SimpleQueue()
        finishing = FinishingThread(self._finisher, self._device, arrivals)
        loop = ContinuousBatching(
            channel, arrivals, finishing, self._runner, self._predicted, self._device, self._room, self._preview_every_s
        )
        PreparingThread(self._preparer, self._device, arrivals).start(channel)
        finishing.start()
        loop.run()
        finishing.close()
        loop.see_out()
