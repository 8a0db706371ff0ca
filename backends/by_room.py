"""Which of several inference servers draws: those that take a drawing now, the one with the most room first.

One rule for all that can draw side by side: workers that dial in, and the GPU boxes of a Fair chain.
"""

import functools
from collections.abc import Iterable
from typing import Protocol, TypeVar

from drawing.models import GenerationRequest, Limits
from endpoint.wire_format import Health


class Drawer(Protocol):
    """One inference server among several."""

    @property
    def health(self) -> Health | None:
        """How it was when it was last seen; None: nobody knows."""

    @property
    def is_going(self) -> bool:
        """Whether it takes nothing new."""

    @property
    def in_flight(self) -> int:
        """How many drawings it has."""


D = TypeVar("D", bound=Drawer)


def by_room(drawers: Iterable[D], request: GenerationRequest | None = None) -> list[D]:
    """Those that take a drawing now, the one with the most room first; without those whose limits `request` exceeds,
    if others are left. `drawers`: the oldest first.

    One whose GPU is busy draws nothing, but has no room either: it comes last. Of equal ones the newest comes first: an
    older line may be what is left of a worker that has come back.
    """
    able = [
        (drawer.health, drawer)
        for drawer in reversed(list(drawers))
        if not drawer.is_going and drawer.health is not None and drawer.health.takes_posts
    ]
    fitting = [one for one in able if _allows(one[0], request)] or able
    fitting.sort(key=lambda one: (one[0].gpu_busy, one[1].in_flight))
    return [drawer for _, drawer in fitting]


def limits_of(healths: Iterable[Health | None]) -> Limits:
    """What one of these servers can do, and how much all of them together; one that tells no limits has the usual."""
    known = [health.limits or Limits() for health in healths if health]
    return functools.reduce(Limits.wider, known) if known else Limits()


def _allows(health: Health, request: GenerationRequest | None) -> bool:
    return request is None or health.limits is None or request.within(health.limits) == request
