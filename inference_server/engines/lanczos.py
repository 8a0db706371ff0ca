"""Enlarges images without a model, for engines whose model is no upscaler."""

import time

from PIL import Image

from inference_server.engines import WorkChannel
from inference_server.messages import Draw, Drawn, FromEngine, RawImage
from inference_server.tasks import UPSCALE


class LanczosChannel(WorkChannel):
    """A channel whose orders to enlarge an image are carried out as they are taken; the others are passed on."""

    def __init__(self, channel: WorkChannel) -> None:
        self._channel = channel

    def take(self, timeout_s: float | None = None) -> Draw | None:
        while (order := self._channel.take(timeout_s)) is not None and order.params.task == UPSCALE:
            self._channel.tell(enlarged(order))
        return order

    def is_cancelled(self, number: int) -> bool:
        return self._channel.is_cancelled(number)

    def tell(self, message: FromEngine) -> None:
        self._channel.tell(message)


def enlarged(order: Draw) -> Drawn:
    """Lanczos gives one picture, whatever the seed: as many of it as there are seeds."""
    begun_s, params = time.monotonic(), order.params
    image = params.image
    if image is None:
        raise ValueError("there is no image to enlarge")
    picture = Image.frombytes("RGB", (image.width_px, image.height_px), image.rgb)
    picture = picture.resize((params.width_px, params.height_px), Image.Resampling.LANCZOS)
    raw = RawImage(picture.width, picture.height, picture.tobytes())
    return Drawn(order.number, (raw,) * len(params.seeds), time.monotonic() - begun_s)
