"""What is known of the place that draws: a backend fills it in, the page puts it into words."""

from dataclasses import dataclass
from typing import Literal

from drawing.models import Defaults, Limits
from errors import Absence

Kind = Literal["local", "fair", "endpoint", "workers"]


@dataclass(frozen=True)
class BoxStatus:
    """One of several GPU boxes: it draws at once where it is `ready`. `trouble`: why it is left out just now."""

    name: str
    ready: bool
    trouble: str | None = None


@dataclass(frozen=True)
class BackendStatus:
    """What is known of a backend without asking anybody.

    `demo`: the built-in model on this machine's own CPU; `tunnel`: a tunnel is in the chain; `ready`: a prompt is no
    cold start; `model`: as the server names it, None until seen; `away`: the owner's machine draws nothing now, and
    `absence` why, where that is known; `stand_in`: another model draws meanwhile, on this machine's own CPU;
    `wakes_in_s`: how long it took to wake lately, at least and at most, while it is asleep; `boxes`: the GPU boxes
    where there are several; `licence`: a sentence about the model's, empty where the server tells none.
    """

    kind: Kind
    demo: bool
    tunnel: bool
    ready: bool
    model: str | None
    limits: Limits
    defaults: Defaults
    away: bool = False
    stand_in: bool = False
    absence: Absence | None = None
    wakes_in_s: tuple[int, int] | None = None
    boxes: tuple[BoxStatus, ...] = ()
    licence: str = ""
