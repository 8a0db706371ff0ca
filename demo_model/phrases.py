"""Splits a prompt into phrases, one for each thing that the demo model may draw. Standard library only."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from demo_model import people
from demo_model.words import Word, read

# What the model was taught to join things by, to put them somewhere, and to put on a head.
JOINING = ("and", "with", "next to", "beside", "together with", "near")
PLACING = ("in", "on", "at", "under", "below", "by", "among", "through", "before", "with")
WEARING = ("wearing", "that wears", "with", "in")
PLACES = frozenset({
    "night", "stars", "sea", "ocean", "water", "grass", "meadow", "park", "garden", "snow", "winter", "rainbow", "sky",
    "clouds", "sunset", "dusk", "evening", "beach", "seaside", "sand", "space", "universe", "outside",
})  # fmt: skip
# Who says "like" without likening anybody: "I like pigs".
_WHO_LIKES = ("i", "we", "you", "they", "would", "to", "also", "and", "kids", "children", "cats", "dogs")


@dataclass
class Phrase:
    """A thing of the prompt with what is said of it: "and | a | big red | fluffy | car".

    `links`: the words of grammar and the punctuation before it. `head`: articles and numbers. `items`: sizes, colours
    and names, and the word "background". `unknown`: the words among them that the model does not know.
    """

    links: list[str] = field(default_factory=list)
    head: list[str] = field(default_factory=list)
    items: list[Word] = field(default_factory=list)
    unknown: list[Word] = field(default_factory=list)

    def of(self, kind: str) -> list[str]:
        return [item.text for item in self.items if item.kind == kind]

    @property
    def is_empty(self) -> bool:
        return not (self.items or self.unknown)

    @property
    def is_adjacent(self) -> bool:
        """Whether nothing stands between it and the phrase before."""
        return not (self.links or self.head)

    @property
    def words(self) -> list[Word]:
        return [*self.items, *self.unknown]

    @property
    def is_person(self) -> bool:
        return any(people.is_person(word.text) for word in self.words)

    @property
    def is_of_a_group(self) -> bool:
        """Whether it speaks of people by religion, descent or colour."""
        return any(people.is_group(word.text) for word in self.unknown) or (self.is_person and bool(self.of("colour")))

    @property
    def is_ground(self) -> bool:
        """Whether it says what colour lies behind the things: "on a blue background", "on blue"."""
        return not self.of("name") and bool(self.of("colour")) and ("ground" in self._kinds or self.link == "on")

    @property
    def is_place(self) -> bool:
        return any(name in PLACES for name in self.of("name")[-1:])

    @property
    def _kinds(self) -> set[str]:
        return {item.kind for item in self.items}

    @property
    def link(self) -> str:
        """The last word before it that the model may have learned to join things by; "" if there is none."""
        return next((link for link in reversed(self.links) if link in JOINING + PLACING + WEARING), "")


def read_phrases(prompt: str, words: Path) -> list[Phrase]:
    """Returns the phrases of the prompt in its order; `words` is the list of names.

    Raises:
        OSError: the list cannot be read.
    """
    phrases = _phrases(read(prompt, words))
    for phrase in phrases:
        _fruit(phrase)
    _colour_in_front(phrases)
    return phrases


def _phrases(words: Sequence[Word]) -> list[Phrase]:
    """Splits the words at articles, numbers, links and punctuation, and where something unknown follows a name."""
    phrases = [Phrase()]
    for number, word in enumerate(words):
        now = phrases[-1]
        before, behind = (words[at] if 0 <= at < len(words) else None for at in (number - 1, number + 1))
        if word.text == "and" and before and behind and before.kind == behind.kind == "colour":
            now.items.append(word)
        elif word.kind in ("link", "stop"):
            if not now.is_empty:
                phrases.append(now := Phrase())
            if not (word.text == "like" and before and before.text in _WHO_LIKES):
                now.links.append(word.text)
        elif word.kind in ("article", "number"):
            if not now.is_empty:
                phrases.append(now := Phrase())
            now.head = (
                [*now.head, word.text] if word.kind == "number" or now.head not in (["a"], ["an"]) else [word.text]
            )
        elif word.kind == "unknown":
            if now.of("name"):
                phrases.append(now := Phrase())
            now.unknown.append(word)
        elif word.kind == "filler":
            if not now.is_empty:
                phrases.append(Phrase())
        else:
            now.items.append(word)
        if word.is_possessive:
            phrases.append(Phrase())
    return phrases


def _fruit(phrase: Phrase) -> None:
    """Takes "an orange" for the fruit; the word is read as a colour."""
    alone = not (phrase.links or phrase.unknown) or (phrase.head and not phrase.unknown)
    if alone and {item.kind for item in phrase.items} == {"colour"} and phrase.items[-1].text == "orange":
        phrase.items[-1] = Word("orange", "name")


def _colour_in_front(phrases: list[Phrase]) -> None:
    """Turns "a car in red" and "a car that is red" into "a red car"; "a woman in red" wears it."""
    for thing, colour in pairwise(phrases):
        behind = colour.links[-1:] in (["is"], ["are"], *([] if thing.is_person else [["in"], [","]]))
        only_colours = colour.items and not colour.unknown and all(item.kind == "colour" for item in colour.items)
        if behind and only_colours and thing.of("name") and not thing.of("colour"):
            thing.items[:0] = colour.items
            colour.items.clear()
