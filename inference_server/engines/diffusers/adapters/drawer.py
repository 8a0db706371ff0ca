"""Draws what an adapter covers by shared steps, and the rest of one model's drawings by the pipeline's own call.

Both use the same network, its LoRAs and memory, so they take turns: what runs is drawn to its end before the other
begins, in the order in which the requests came.
"""

from typing import Protocol

from inference_server.engines import WorkChannel
from inference_server.messages import Draw, FromEngine, GenerationParams


class Drawer(Protocol):
    """For several channels, one after the other."""

    def work(self, channel: WorkChannel) -> None: ...


def covers(params: GenerationParams) -> bool:
    """Whether the adapters draw it: from a text alone."""
    return params.image is None and params.mask_image is None


class AdapterDrawer:
    """The step loop, and beside it the pipeline's own call for what the adapter does not cover."""

    def __init__(self, shared: Drawer, own_call: Drawer) -> None:
        self.shared, self.own_call = shared, own_call

    def work(self, channel: WorkChannel) -> None:
        """Draws until the channel has no more to give. Raises: whatever the process cannot survive."""
        turns = _Turns(channel)
        while (covered := turns.next_is_covered()) is not None:
            (self.shared if covered else self.own_call).work(_Turn(turns, covered))


class _Turns:
    """The channel, and the one order that ended the last turn."""

    def __init__(self, channel: WorkChannel) -> None:
        self.channel = channel
        self._next: Draw | None = None
        self._ended = False

    def next_is_covered(self) -> bool | None:
        """Waits for an order. None: no more will come."""
        self._look(None)
        return None if self._next is None else covers(self._next.params)

    def take(self, covered: bool, timeout_s: float | None) -> Draw | None:
        """The next order, if it is of this kind; None ends the turn."""
        self._look(timeout_s)
        if self._next is None or covers(self._next.params) is not covered:
            return None
        order, self._next = self._next, None
        return order

    def _look(self, timeout_s: float | None) -> None:
        if self._next is None and not self._ended:
            self._next = self.channel.take(timeout_s)
            self._ended = self._next is None and timeout_s is None


class _Turn(WorkChannel):
    """Gives orders of one kind, until one of the other comes."""

    def __init__(self, turns: _Turns, covered: bool) -> None:
        self._turns, self._covered = turns, covered

    def take(self, timeout_s: float | None = None) -> Draw | None:
        return self._turns.take(self._covered, timeout_s)

    def is_cancelled(self, number: int) -> bool:
        return self._turns.channel.is_cancelled(number)

    def tell(self, message: FromEngine) -> None:
        self._turns.channel.tell(message)
