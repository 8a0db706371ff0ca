"""What the model draws and the names that people type for it, from `concepts.txt`. Standard library only."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("concepts.txt")
_LINE = re.compile(r"(?P<common>!?)(?P<icon>[\w-]+)(?P<coloured>\*?)(?P<own_colour>[a-z ]*): (?P<names>.+)")


@dataclass(frozen=True)
class Concept:
    """One thing: its icon in the Noto set, and its names, best first."""

    icon: str
    names: tuple[str, ...]
    common: bool  # asked for often
    coloured: bool  # asked for in colours
    own_colour: str  # the colour that it has as drawn, "" where nobody would say one


@cache
def concepts(file: Path = FILE) -> tuple[Concept, ...]:
    """Returns all concepts, in the file's order.

    Raises:
        ValueError: a line is none; the message holds it.
    """
    return tuple(_concept(line) for line in file.read_text().splitlines() if line and not line.startswith("#"))


def _concept(line: str) -> Concept:
    if (match := _LINE.fullmatch(line)) is None:
        raise ValueError(f"{FILE.name}: {line!r} is no concept; write 'icon: name, another name'.")
    names = tuple(name.strip() for name in match["names"].split(","))
    return Concept(match["icon"], names, bool(match["common"]), bool(match["coloured"]), match["own_colour"])
