"""What a line's visitors want, and what came of it."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any


@dataclass
class AwaitedEvent:
    """The next one that a visitor should soon hear of."""

    since_s: float  # when the line was back
    counts_from_s: float  # what comes sooner was under way before
    times: list[float]


@dataclass
class Visit:
    """One picture that a visitor wants. `prompt` is its name; asked again when the Space has forgotten it."""

    prompt: str
    ask: dict[str, Any]
    asked_s: float = 0.0
    begun: bool = False  # a step was seen
    outcome: str = ""
    words: str = ""
    next_event: AwaitedEvent | None = None


@dataclass
class Tally:
    """What came of a line's visits. `drawn_twice`, `wrong`: prompts; times in seconds."""

    pictures: int = 0
    sentences: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    drawn_twice: list[str] = field(default_factory=list)
    delivered_twice: list[str] = field(default_factory=list)
    ended_with_worker: list[str] = field(default_factory=list)  # and drawn again
    incidents: Counter[str] = field(default_factory=Counter)
    asked_again: int = 0
    after_line_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # by kind of trouble
    after_start_s: list[float] = field(default_factory=list)
    picture_s: list[float] = field(default_factory=list)
