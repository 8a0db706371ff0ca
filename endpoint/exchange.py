"""One request to a worker and its answer, as it comes piece by piece from the event loop to the thread that waits."""

import itertools
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

_ids = itertools.count(1)  # for the whole process: an answer under an old id finds nobody, on whatever line it comes


@dataclass(frozen=True)
class Head:
    """The beginning of an answer."""

    status: int
    retry_after: str  # empty: it did not say


@dataclass(frozen=True)
class Line:
    """One line of an answer: a JSON object, and the files of the finished pictures that belong to it."""

    content: dict[str, Any]
    files: tuple[bytes | bytearray, ...] = ()


@dataclass(frozen=True)
class End:
    """Nothing more comes. `broken`: why, where the answer is not whole; `refused`: nor would be another one."""

    broken: str | None = None
    refused: bool = False


Piece = Head | Line | End


@dataclass
class Exchange:
    """One request and its answer, piece by piece."""

    id: int = field(default_factory=lambda: next(_ids))
    pieces: "SimpleQueue[Piece]" = field(default_factory=SimpleQueue)
    pictures: dict[int, bytearray] = field(default_factory=dict)
    received_bytes: int = 0
    heard_s: float = 0.0  # when the newest piece of a picture came, on the monotonic clock

    def next(self, timeout_s: float) -> Piece:
        """The next piece. Raises: TimeoutError when none comes within `timeout_s`."""
        try:
            return self.pieces.get(timeout=timeout_s)
        except Empty:
            raise TimeoutError from None
