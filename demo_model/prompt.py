"""Rewrites a prompt for the demo model's text encoder: known words only, put as the model learned them.

The encoder reads pieces of words, so a word that it does not know would draw what its pieces resemble. Such words are
left out here. Persons keep the artwork's own colours, and nobody is drawn as an animal (see `demo_model.people`).
Standard library only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from demo_model import people
from demo_model.words import WORDS, Word, read

# Draws a rainbow over a meadow, as for any words that the model was not taught.
RAINBOW = "philosophy"
# What the model draws badly by one name and well by another.
_DRAWN_BETTER = {
    "cat": "kitten", "house cat": "kitten", "pussycat": "kitten", "tomcat": "kitten",
    "cats": "kittens", "house cats": "kittens", "pussycats": "kittens", "tomcats": "kittens",
    "house with garden": "house in the garden", "house with a tree": "house and a tree",
}  # fmt: skip
# What the model was taught to join things by, to put them somewhere, and to put on a head.
_JOINING = ("and", "with", "next to", "beside", "together with", "near")
_PLACING = ("in", "on", "at", "under", "below", "by", "among", "through", "before", "with")
_WEARING = ("wearing", "that wears", "with", "in")
_PLACES = frozenset({
    "night", "stars", "sea", "ocean", "water", "grass", "meadow", "park", "garden", "snow", "winter", "rainbow", "sky",
    "clouds", "sunset", "dusk", "evening", "beach", "seaside", "sand", "space", "universe", "outside",
})  # fmt: skip
_HEADS = frozenset({
    "cat", "kitten", "dog", "puppy", "rabbit", "bunny", "panda", "bear", "fox", "monkey", "pig", "mouse", "tiger",
    "lion", "frog", "cow", "koala", "robot", "alien", "ghost", "skull", "face", "smiley", "happy face", "sad face",
    "baby", "unicorn",
})  # fmt: skip
_WORN = frozenset({
    "sunglasses", "shades", "glasses", "spectacles", "top hat", "hat", "crown", "golden crown", "cap", "baseball cap",
    "graduation cap",
})  # fmt: skip
# After these a person is likened to something, unless somebody likes it.
_LIKENING = ("is", "are", "was", "were", "am", "be", "as", "like")
_WHO_LIKES = ("i", "we", "you", "they", "would", "to", "also", "and", "kids", "children", "cats", "dogs")


def encoder_prompt(prompt: str, *, otherwise: str = RAINBOW) -> str:
    """Returns the words that the text encoder is given for a prompt; `otherwise` if it holds nothing to draw.

    Raises:
        OSError: the list of names cannot be read.
    """
    phrases = _drawn_phrases(prompt, WORDS)
    several = len([phrase for phrase in phrases if not (phrase.is_ground or phrase.is_place)]) > 1
    texts = [phrase.text(sized=not several) for phrase in phrases]
    links = [_learned_link(before, phrase) for before, phrase in pairwise(phrases)]
    joined = (f"{link} {text}".strip() for link, text in zip(links, texts[1:], strict=True))
    return " ".join([*texts[:1], *joined]) or otherwise


def known_words(prompt: str, *, words: Path = WORDS) -> list[str]:
    """Returns the names and colours of the prompt that the demo model draws, in lower case; none for a rainbow.

    Plurals and possessives count, and the longest name wins: "two slices of cake" gives ["slices of cake"], "my cat's
    toy" ["cat"].

    Raises:
        OSError: the list of names cannot be read.
    """
    phrases = _drawn_phrases(prompt, words)
    return [item.text for phrase in phrases for item in phrase.items if item.kind in ("name", "colour")]


@dataclass
class _Phrase:
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
        return any(name in _PLACES for name in self.of("name")[-1:])

    @property
    def _kinds(self) -> set[str]:
        return {item.kind for item in self.items}

    @property
    def link(self) -> str:
        """The last word before it that the model may have learned to join things by; "" if there is none."""
        return next((link for link in reversed(self.links) if link in _JOINING + _PLACING + _WEARING), "")

    def text(self, *, sized: bool) -> str:
        """Returns its words as the model learned them; sizes were only taught of things that are alone."""
        items = [item for item in self.items if sized or item.kind != "size"]
        rest = " ".join(_DRAWN_BETTER.get(item.text, item.text) for item in items)
        head = [("an" if rest[0] in "aeiou" else "a") if word in ("a", "an") else word for word in self.head]
        return " ".join([*head, rest])


def _drawn_phrases(prompt: str, words: Path) -> list[_Phrase]:
    """Returns the phrases of the prompt that hold something to draw, without what is not drawn; grounds come last."""
    if people.has_insult(" ".join(prompt.lower().split())):
        return []
    phrases = _phrases(read(prompt, words))
    for phrase in phrases:
        _fruit(phrase)
    _colour_in_front(phrases)
    _without_insults(phrases)
    for phrase in phrases:
        _without_paint_on_people(phrase)
    drawn: list[_Phrase] = []
    links: list[str] = []
    for phrase in phrases:
        links += phrase.links
        if phrase.of("name") or phrase.is_ground:
            phrase.links, links = links, []
            drawn.append(phrase)
    things = [phrase for phrase in drawn if not phrase.is_ground]
    if len(things) > 1 and things[0].link in _PLACING:  # "at night a cat" is "a cat at night"
        things.append(things.pop(0))
    return [*things, *(phrase for phrase in drawn if phrase.is_ground)] if things else []


def _learned_link(before: _Phrase, phrase: _Phrase) -> str:
    """Returns what joins a phrase to the one before as the model was taught; "and" draws two things side by side."""
    link = phrase.link
    if phrase.is_ground:
        return link or "on"
    name = phrase.of("name")[-1]
    if phrase.is_place:
        taught = link if link in _PLACING or link == "and" else "in"
        return "" if name == "outside" else "in" if name == "garden" and link == "with" else taught
    if name in _WORN and link in _WEARING:
        return link if before.of("name")[-1] in _HEADS else "and"
    return link if link in _JOINING else "and"


def _phrases(words: Sequence[Word]) -> list[_Phrase]:
    """Splits the words at articles, numbers, links and punctuation, and where something unknown follows a name."""
    phrases = [_Phrase()]
    for number, word in enumerate(words):
        now = phrases[-1]
        before, behind = (words[at] if 0 <= at < len(words) else None for at in (number - 1, number + 1))
        if word.text == "and" and before and behind and before.kind == behind.kind == "colour":
            now.items.append(word)
        elif word.kind in ("link", "stop"):
            if not now.is_empty:
                phrases.append(now := _Phrase())
            if not (word.text == "like" and before and before.text in _WHO_LIKES):
                now.links.append(word.text)
        elif word.kind in ("article", "number"):
            if not now.is_empty:
                phrases.append(now := _Phrase())
            now.head = (
                [*now.head, word.text] if word.kind == "number" or now.head not in (["a"], ["an"]) else [word.text]
            )
        elif word.kind == "unknown":
            if now.of("name"):
                phrases.append(now := _Phrase())
            now.unknown.append(word)
        elif word.kind != "filler":
            now.items.append(word)
        if word.is_possessive:
            phrases.append(_Phrase())
    return phrases


def _fruit(phrase: _Phrase) -> None:
    """Takes "an orange" for the fruit; the word is read as a colour."""
    alone = not (phrase.links or phrase.unknown) or (phrase.head and not phrase.unknown)
    if alone and {item.kind for item in phrase.items} == {"colour"} and phrase.items[-1].text == "orange":
        phrase.items[-1] = Word("orange", "name")


def _colour_in_front(phrases: list[_Phrase]) -> None:
    """Turns "a car in red" and "a car that is red" into "a red car"."""
    for thing, colour in pairwise(phrases):
        behind = colour.links[-1:] in (["in"], ["is"], ["are"], [","])
        only_colours = colour.items and not colour.unknown and all(item.kind == "colour" for item in colour.items)
        if behind and only_colours and thing.of("name") and not thing.of("colour"):
            thing.items[:0] = colour.items
            colour.items.clear()


def _without_insults(phrases: list[_Phrase]) -> None:
    """Takes out what insults people: beside a group of people, or where a person is likened to it."""
    of_a_group = [phrase.is_of_a_group for phrase in phrases]
    for number, phrase in enumerate(phrases):
        person = any(people.is_person(word.text) and not people.is_insulting(word.text) for word in phrase.words)
        insulting = any(of_a_group) or person or _is_likened(phrases, number)
        cliche = any(of_a_group[:number] + of_a_group[number + 1 :])
        phrase.items = [
            item
            for item in phrase.items
            if not (insulting and people.is_insulting(item.text)) and not (cliche and people.is_cliche(item.text))
        ]


def _is_likened(phrases: list[_Phrase], number: int) -> bool:
    """Returns whether a person is likened to the thing of this phrase: "Anna is a pig", "a pig faced man"."""
    phrase, before = phrases[number], [earlier for earlier in phrases[:number] if not earlier.is_empty]
    names = phrase.of("name")
    behind = phrases[number + 1] if number + 1 < len(phrases) else None
    if behind and behind.is_adjacent and behind.is_person:
        return True
    if any(
        word.is_capitalised for word in phrase.unknown[0 if before or phrase.head else 1 :]
    ):  # "an Obama monkey", "Fluffy pig" not
        return not any(item.is_capitalised for item in phrase.items)
    if not before:
        return False
    subject, link = before[-1], phrase.links[-1:]
    if link and link[0] in _LIKENING:
        return subject.is_person or not (subject.of("name") or subject.head)
    persons = any(earlier.is_person for earlier in before)
    return persons and (link == ["of"] or any(name.endswith((" face", " head")) for name in names))


def _without_paint_on_people(phrase: _Phrase) -> None:
    """Takes the colours from persons and parts of a body, and what stands before a person: "a pizza man"."""
    names = phrase.of("name")
    if phrase.is_person or any(name in people.BODY_PARTS for name in names):
        phrase.items = [item for item in phrase.items if item.kind in ("name", "size")]
    persons = [number for number, item in enumerate(phrase.items) if item.text in people.PERSONS]
    if persons:
        phrase.items = [item for number, item in enumerate(phrase.items) if number >= persons[0] or item.kind == "size"]
