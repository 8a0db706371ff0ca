"""Draws lots for what a training picture shows: its things, their colours and sizes, and the ground below them.

It shows one thing, two side by side, two or three of a kind, or a thing that wears another.

A thing has one large size and place, and a small size on the latents' grid, so that it has the same latents wherever it
stands: the model learns it twice, and not anew in every position.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from demo_model.training.colours import COLOURS, GROUNDS
from demo_model.training.concepts import Concept
from demo_model.training.places import PLACES

CELL = 16  # pixels
# The side of a thing in pixels: alone, and one of several or asked for as small.
LARGE, SMALL = 230, 128

# How often each kind is drawn.
KINDS = {"single": 0.40, "pair": 0.22, "count": 0.16, "wearing": 0.09, "sized": 0.05, "unknown": 0.08}
_SAME_THING = 0.15  # of the pairs: a red one and a blue one
_COMMON_WEIGHT = 3.0  # how much more often a common concept is drawn than another one

# Whose head something can be put on: the icon of the head, the names asked by, and how far down its eyes lie (0 to 1).
HEADS = {
    "cat-face": (("cat", "kitten"), 0.50),
    "dog-face": (("dog", "puppy"), 0.42),
    "rabbit-face": (("rabbit", "bunny"), 0.62),
    "panda": (("panda",), 0.50),
    "bear": (("bear",), 0.47),
    "fox": (("fox",), 0.50),
    "monkey-face": (("monkey",), 0.42),
    "pig-face": (("pig",), 0.42),
    "mouse-face": (("mouse",), 0.52),
    "tiger-face": (("tiger",), 0.48),
    "lion": (("lion",), 0.44),
    "frog": (("frog",), 0.24),
    "cow-face": (("cow",), 0.40),
    "koala": (("koala",), 0.46),
    "robot": (("robot",), 0.47),
    "alien": (("alien",), 0.50),
    "ghost": (("ghost",), 0.36),
    "skull": (("skull",), 0.45),
    "grinning-face": (("face", "smiley", "happy face"), 0.38),
    "frowning-face": (("sad face",), 0.42),
    "baby": (("baby",), 0.52),
    "unicorn": (("unicorn",), 0.40),
}
# What can be worn: the icon, the names asked by, its width in parts of the head's, and how far down its middle lies
# (0 to 1 of the head; None: before the eyes).
WORN = {
    "sunglasses": (("sunglasses", "shades"), 0.80, None),
    "glasses": (("glasses", "spectacles"), 0.80, None),
    "top-hat": (("a top hat", "a black hat", "a hat"), 0.46, 0.14),
    "crown": (("a crown", "a golden crown"), 0.46, 0.14),
    "billed-cap": (("a cap", "a blue cap", "a baseball cap"), 0.54, 0.16),
    "graduation-cap": (("a graduation cap",), 0.56, 0.16),
}


@dataclass(frozen=True)
class Thing:
    """One thing in a picture: its centre and its longer side in pixels."""

    concept: int
    colour: str | None
    x: int
    y: int
    side: int


@dataclass(frozen=True)
class Scene:
    """A whole picture. The things are drawn in this order; in a pair the first is left."""

    kind: str  # of KINDS
    things: tuple[Thing, ...]
    ground: str | None = None  # of GROUNDS
    place: str | None = None  # of PLACES

    @property
    def is_plain(self) -> bool:
        """Whether it shows one thing as it is drawn, large, alone on white."""
        return self.kind == "single" and self.things[0].colour is None and self.ground is None and self.place is None


def _large(concept: int, colour: str | None = None) -> Thing:
    return Thing(concept, colour, 128, 128, LARGE)


def catalogue(number: int) -> list[Scene]:
    """Returns for each of so many concepts the scene that shows it as it is drawn, alone on white."""
    return [Scene("single", (_large(concept),)) for concept in range(number)]


class SceneLottery:
    """Draws scenes; the same generator gives the same scenes."""

    def __init__(self, concepts: Sequence[Concept], colourable: Sequence[bool], rng: np.random.Generator) -> None:
        self._rng = rng
        self._index = {concept.icon: number for number, concept in enumerate(concepts)}
        self._all = np.arange(len(concepts))
        self._weights = np.array([_COMMON_WEIGHT if concept.common else 1.0 for concept in concepts])
        self._weights /= self._weights.sum()
        self._common = np.array([number for number, concept in enumerate(concepts) if concept.common])
        self._colourable = colourable
        self._asked_in_colours = np.array([number for number, concept in enumerate(concepts) if concept.coloured])
        self._coloured = np.array([number for number in self._common if colourable[number]])

    def draw(self) -> Scene:
        kind = str(self._rng.choice(list(KINDS), p=list(KINDS.values())))
        scene: Scene = getattr(self, f"_draw_{kind}")()
        return scene

    def _chance(self, share: float) -> bool:
        return bool(self._rng.random() < share)

    def _any_colour(self) -> str:
        return str(self._rng.choice(list(COLOURS)))

    def _any_place(self) -> str:
        return str(self._rng.choice(list(PLACES)))

    def _any_ground(self, avoid: str | None) -> str:
        return str(self._rng.choice([ground for ground in GROUNDS if ground != avoid]))

    def _common_concept(self) -> tuple[int, str | None]:
        """Returns a concept asked for often, now and then in another colour."""
        concept = int(self._rng.choice(self._common if self._chance(0.92) else self._all))
        return concept, self._any_colour() if self._colourable[concept] and self._chance(0.25) else None

    def _draw_single(self) -> Scene:
        """A thing as it is drawn is rare here: every one of them is in the catalogue."""
        lot = self._rng.random()
        if lot < 0.05:
            concept, colour = int(self._rng.choice(self._all, p=self._weights)), None
        elif lot < 0.40:
            pool = self._asked_in_colours if self._chance(0.5) else self._coloured
            concept, colour = int(self._rng.choice(pool)), self._any_colour()
        elif lot < 0.60:
            concept, colour = self._common_concept()
            return Scene("single", (_large(concept, colour),), ground=self._any_ground(colour))
        else:
            return self._in_place()
        return Scene("single", (_large(concept, colour),))

    def _in_place(self) -> Scene:
        concept, colour = self._common_concept()
        return Scene("single", (_large(concept, colour),), place=self._any_place())

    def _surroundings(self, colours: Sequence[str | None]) -> dict[str, str]:
        """Returns where several things stand: mostly on white."""
        lot = self._rng.random()
        if lot < 0.16:
            return {"place": self._any_place()}
        if lot < 0.24:
            return {"ground": self._any_ground(colours[0])}
        return {}

    def _draw_pair(self) -> Scene:
        (first, one), (second, other) = self._common_concept(), self._common_concept()
        if self._chance(_SAME_THING):
            first = second = int(self._rng.choice(self._coloured))
            one, other = (str(colour) for colour in self._rng.choice(list(COLOURS), 2, replace=False))
        things = (
            Thing(first, one, 64, 128, SMALL),
            Thing(second, other, 192, 128, SMALL),
        )
        return Scene("pair", things, **self._surroundings([one]))

    def _draw_count(self) -> Scene:
        concept, colour = self._common_concept()
        spots = [(64, 128), (192, 128)] if self._chance(0.5) else [(128, 64), (64, 192), (192, 192)]
        things = tuple(Thing(concept, colour, x, y, SMALL) for x, y in spots)
        return Scene("count", things, **self._surroundings([colour]))

    def _draw_wearing(self) -> Scene:
        head = str(self._rng.choice(list(HEADS)))
        worn = str(self._rng.choice(list(WORN)))
        side, x, y = LARGE, 128, 128
        _, width, height = WORN[worn]
        _, eyes = HEADS[head]
        down = eyes if height is None else height + (0.12 if head == "frog" else 0.0)
        things = (
            Thing(self._index[head], None, x, y, side),
            Thing(self._index[worn], None, x, round(y + (down - 0.5) * side), round(width * side)),
        )
        return Scene("wearing", things)

    def _draw_sized(self) -> Scene:
        """One thing, small or large."""
        concept, colour = self._common_concept()
        if self._chance(0.4):
            return Scene("sized", (_large(concept, colour),))
        return Scene("sized", (Thing(concept, colour, 128, 128, SMALL),))

    def _draw_unknown(self) -> Scene:
        """What stands for words that the model does not know: a rainbow over a meadow."""
        return Scene("unknown", (), place="rainbow")
