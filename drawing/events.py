"""The events of a drawing: waking, queued, step after step, and at the end a picture, a failure or a cancel."""

from collections.abc import Callable
from dataclasses import dataclass, field

from drawing.models import GeneratedImage
from errors import SpaceError


@dataclass(frozen=True)
class Waking:
    """Services are looked for, started or waited for. `stage`: what is happening, as a short sentence.

    `wakes_in_s`: how long the whole of it took lately, at least and at most; None where nobody knows.
    """

    stage: str
    wakes_in_s: tuple[int, int] | None = None


@dataclass(frozen=True)
class Queued:
    """The drawing waits in line, here or at the inference server. `place`: 1 is next; `about_s`: seconds until its turn
    comes, by what the last ones took; None: not known.
    """

    place: int
    about_s: float | None = None


@dataclass(frozen=True)
class Step:
    """Denoising step `step` of `num_inference_steps` is done. `preview`: a small encoded picture, if there is one.

    `arriving`: the picture is finished and `preview` a small one of it; on a slow line the whole of it takes a while.
    """

    step: int
    num_inference_steps: int
    preview: bytes | None = field(default=None, repr=False)
    arriving: bool = False


@dataclass(frozen=True)
class Picture:
    """The last event of a job that succeeded."""

    generated: GeneratedImage


@dataclass(frozen=True)
class Failed:
    """The last event of a job that failed."""

    error: SpaceError


@dataclass(frozen=True)
class Cancelled:
    """The last event of a job that was cancelled."""


Event = Waking | Queued | Step | Picture | Failed | Cancelled
Tell = Callable[[Waking | Queued | Step], None]
