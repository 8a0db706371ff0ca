"""What reaches the step loop from the other threads: images to draw, or the end."""

from dataclasses import dataclass
from queue import SimpleQueue

from inference_server.engines.diffusers.preparing import ImageInMaking


@dataclass(frozen=True)
class Prepared:
    """The images of one drawing, ready for their first step."""

    images: tuple[ImageInMaking, ...]


@dataclass(frozen=True)
class Ended:
    """No more will come. `error`: because the process is not fit to go on."""

    error: BaseException | None = None


Arrivals = SimpleQueue[Prepared | Ended]
