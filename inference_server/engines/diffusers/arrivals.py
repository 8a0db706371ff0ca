"""What reaches the step loop from the other threads: images to draw, a want of memory, or the end."""

import threading
from dataclasses import dataclass, field
from queue import SimpleQueue

from inference_server.engines.diffusers.encode import ImageInMaking

MAKE_ROOM_DEADLINE_S = 30.0  # the loop looks between two steps


@dataclass(frozen=True)
class Prepared:
    """The images of one drawing, ready for their first step."""

    images: tuple[ImageInMaking, ...]


@dataclass(frozen=True)
class MemoryShort:
    """A thread beside the loop found too little memory, and waits until the loop has let go of what it can spare."""

    answered: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Ended:
    """No more drawings will come. `error`: because the process is not fit to go on."""

    error: BaseException | None = None


@dataclass(frozen=True)
class AllTold:
    """Nothing is left to be finished. `error`: as with `Ended`."""

    error: BaseException | None = None


Arrival = Prepared | MemoryShort | Ended | AllTold
Arrivals = SimpleQueue[Arrival]


def make_room(arrivals: Arrivals) -> None:
    """Has the loop give back what memory it can spare, and waits for that, `MAKE_ROOM_DEADLINE_S` at most."""
    short = MemoryShort()
    arrivals.put(short)
    short.answered.wait(MAKE_ROOM_DEADLINE_S)
