"""What is known of the place that draws, as a plain value: the page words it, a backend fills it."""

from dataclasses import dataclass
from typing import Literal

from drawing.models import Defaults, Limits

Kind = Literal["local", "fair", "endpoint"]


@dataclass(frozen=True)
class BackendStatus:
    """What is known of a backend without asking anybody.

    `demo`: the built-in model on this machine's own CPU; `tunnel`: a tunnel is in the chain; `ready`: a prompt is no
    cold start; `model`: as the server names it, None until seen.
    """

    kind: Kind
    demo: bool
    tunnel: bool
    ready: bool
    model: str | None
    limits: Limits
    defaults: Defaults
