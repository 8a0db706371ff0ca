"""Sentences for the training pictures, made up anew whenever a picture is shown."""

from collections.abc import Sequence

import numpy as np

from demo_model.plurals import comes_in_pairs, plural
from demo_model.training.concepts import Concept
from demo_model.training.scenes import HEADS, LARGE, WORN, Scene, Thing
from demo_model.training.vocabulary import ADJECTIVES, DETERMINERS, ENDS, FILLER, NOUNS, PLACE_PHRASES, STARTS

_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"


class Captions:
    """Writes sentences; the same generator gives the same sentences."""

    def __init__(
        self,
        concepts: Sequence[Concept],
        own_colours: Sequence[str],
        rng: np.random.Generator,
        unknown_words: Sequence[str] = NOUNS,
    ) -> None:
        """Writes about these things.

        `own_colours`: for each concept the colour that it has as drawn, "" where nobody would say one.
        `unknown_words`: words of which nothing is drawn.
        """
        self._concepts, self._own_colours, self._rng = concepts, own_colours, rng
        self._unknown_words = unknown_words

    def write(self, scene: Scene) -> str:
        """Returns a sentence for the scene."""
        if scene.kind == "unknown":
            return self._unknown()
        text: str = getattr(self, f"_{scene.kind}")(scene)
        text = self._where(text, scene)
        if self._chance(0.18):
            text = f"{self._pick(STARTS)} {text}"
        if self._chance(0.10):
            text += f"{self._pick([' ', ', '])}{self._pick(ENDS)}"
        return self._with_noise(text) if self._chance(0.15) else text

    def _chance(self, share: float) -> bool:
        return bool(self._rng.random() < share)

    def _pick(self, words: Sequence[str]) -> str:
        return words[int(self._rng.integers(len(words)))]

    def _invented(self) -> str:
        syllables = (
            self._pick(_CONSONANTS) + self._pick(_VOWELS) + (self._pick("nrlst") if self._chance(0.4) else "")
            for _ in range(int(self._rng.integers(1, 4)))
        )
        return "".join(syllables)

    def _meaningless(self) -> str:
        lot = self._rng.random()
        if lot < 0.3:
            return self._invented()
        return self._pick(self._unknown_words if lot < 0.7 else NOUNS if lot < 0.85 else FILLER)

    def _unknown(self) -> str:
        text = " ".join(self._meaningless() for _ in range(int(self._rng.integers(1, 5))))
        text = f"{self._pick(DETERMINERS)} {text}".strip() if self._chance(0.5) else text
        return f"{self._pick(STARTS)} {text}" if self._chance(0.25) else text

    def _name(self, thing: Thing, *, many: bool = False) -> str:
        """Returns a name with its adjective and colour, without an article."""
        names = self._concepts[thing.concept].names
        name = names[0] if self._chance(0.5) else self._pick(names)
        name = plural(name) if many else name
        colour = thing.colour
        if colour is None and self._chance(0.10):
            colour = self._own_colours[thing.concept] or None
        if self._chance(0.12):
            name = f"{self._pick(ADJECTIVES)} {name}"
        if colour is None:
            return name
        lot = self._rng.random()
        return f"{colour} {name}" if lot < 0.9 else f"{name} in {colour}" if lot < 0.95 else f"{name}, {colour}"

    def _with_article(self, name: str) -> str:
        determiner = self._pick(DETERMINERS)
        if determiner == "a" and comes_in_pairs(_without_colour_behind(name)):
            determiner = "a pair of"
        elif determiner == "a" and name[0] in _VOWELS:
            determiner = "an"
        return f"{determiner} {name}".strip()

    def _single(self, scene: Scene) -> str:
        return self._with_article(self._name(scene.things[0]))

    def _sized(self, scene: Scene) -> str:
        sizes = (
            ("big", "huge", "large", "giant") if scene.things[0].side == LARGE else ("small", "tiny", "small", "mini")
        )
        name = f"{self._pick(sizes)} {self._name(scene.things[0])}"
        return self._with_article(name)

    def _pair(self, scene: Scene) -> str:
        left, right = (self._name(thing) for thing in scene.things)
        if self._chance(0.75):
            left, right = self._with_article(left), self._with_article(right)
        link = self._pick(("and",) * 6 + ("with", "and", "next to", "beside", "&", "together with", "near"))
        return f"{left} {link} {right}"

    def _count(self, scene: Scene) -> str:
        name = self._name(scene.things[0], many=True)
        if len(scene.things) == 2:
            number = self._pick(("two",) * 6 + ("2", "a pair of", "a couple of", "the two", "my two", ""))
        else:
            number = self._pick(("three",) * 6 + ("3", "three", "the three", "some", "many", "a few"))
        if comes_in_pairs(_without_colour_behind(name)):  # "a pair of jeans" is one thing, "jeans" as well
            number = {"a pair of": "two pairs of", "a couple of": "two", "": "two"}.get(number, number)
        return f"{number} {name}".strip()

    def _wearing(self, scene: Scene) -> str:
        head, worn = (self._concepts[thing.concept].icon for thing in scene.things)
        link = self._pick(("wearing", "with", "in", "wearing", "that wears"))
        return f"{self._with_article(self._pick(HEADS[head][0]))} {link} {self._pick(WORN[worn][0])}"

    def _where(self, text: str, scene: Scene) -> str:
        """Returns the sentence with the place or the ground."""
        if scene.place:
            return f"{text} {self._pick(PLACE_PHRASES[scene.place])}"
        if scene.ground:
            forms = ("on a {} background",) * 5 + (
                "on {} background",
                "with a {} background",
                ", {} background",
                "on {}",
            )
            return f"{text} {self._pick(forms).format(scene.ground)}".replace(" ,", ",")
        return f"{text} on a white background" if self._chance(0.02) else text

    def _with_noise(self, text: str) -> str:
        """Returns the sentence with one or two words in it that mean nothing."""
        words = text.split()
        for _ in range(int(self._rng.integers(1, 3))):
            word = self._pick(FILLER) if self._chance(0.5) else self._meaningless()
            words.insert(int(self._rng.integers(len(words) + 1)), word)
        return " ".join(words)


def _without_colour_behind(name: str) -> str:
    """Returns "jeans" for "jeans in red" and "jeans, red"."""
    return name.partition(" in ")[0].partition(",")[0]
