"""A drawing between the queue and the answer: while the engine is at it, and when it came back."""

from dataclasses import dataclass

from inference_server.messages import RawImage
from inference_server.resolve import Resolved
from inference_server.tickets import Ticket
from inference_server.wire import PictureRequest


@dataclass(frozen=True)
class Finished:
    """A drawing that came back from the engine, to be turned into the answer's JSON."""

    request: PictureRequest
    resolved: Resolved
    images: tuple[RawImage, ...]
    init_ms: float  # waiting for the engine to be ready
    queue_ms: float  # waiting for others
    inference_ms: float


@dataclass
class Current:
    """The drawing under way."""

    ticket: Ticket
    resolved: Resolved
    number: int
    step_s: float  # when the last step was done
    preview: RawImage | None = None
    preview_number: int = 0
