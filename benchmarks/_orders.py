"""Drives an engine of this process without a server: orders in, pictures and failures out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from inference_server.engines import WorkChannel
from inference_server.messages import Draw, DrawFailed, Drawn, FromEngine


class OrdersChannel(WorkChannel):
    """Gives all orders at once and keeps what became of them, by the order's number."""

    def __init__(self, orders: Sequence[Draw]) -> None:
        self._orders = list(orders)
        self.pictures: dict[int, Any] = {}  # of each, all pixels and colours as (n,) int
        self.failures: dict[int, str] = {}

    def take(self, timeout_s: float | None = None) -> Draw | None:
        return self._orders.pop(0) if self._orders else None

    def is_cancelled(self, number: int) -> bool:
        return False

    def tell(self, message: FromEngine) -> None:
        if isinstance(message, Drawn):
            self.pictures[message.number] = np.frombuffer(message.images[0].rgb, np.uint8).astype(int)
        elif isinstance(message, DrawFailed):
            self.failures[message.number] = message.reason
