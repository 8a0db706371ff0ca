"""Rewrites a prompt for the demo model's text encoder: known words only, put as the model learned them.

The encoder reads pieces of words, so a word that it does not know would draw what its pieces resemble. Such words are
left out here. Persons keep the artwork's own colours, and nobody is drawn as an animal (see `demo_model.people`).
Standard library only.
"""

from itertools import pairwise
from pathlib import Path

from demo_model import people
from demo_model.phrases import JOINING, PLACING, WEARING, Phrase, read_phrases
from demo_model.words import WORDS

# Draws a rainbow over a meadow, as for any words that the model was not taught.
RAINBOW = "philosophy"
# What the model draws badly by one name and well by another.
_DRAWN_BETTER = {
    "cat": "kitten", "house cat": "kitten", "pussycat": "kitten", "tomcat": "kitten",
    "cats": "kittens", "house cats": "kittens", "pussycats": "kittens", "tomcats": "kittens",
    "house with garden": "house in the garden", "house with a tree": "house and a tree",
    "ball": "soccer ball", "balls": "soccer balls", "cup": "cup of coffee", "cups": "cups of coffee",
}  # fmt: skip
HEADS = frozenset({
    "cat", "kitten", "dog", "puppy", "rabbit", "bunny", "panda", "bear", "fox", "monkey", "pig", "mouse", "tiger",
    "lion", "frog", "cow", "koala", "robot", "alien", "ghost", "skull", "face", "smiley", "happy face", "sad face",
    "baby", "unicorn",
})  # fmt: skip
WORN = frozenset({
    "sunglasses", "shades", "glasses", "spectacles", "top hat", "hat", "crown", "golden crown", "cap", "baseball cap",
    "graduation cap",
})  # fmt: skip
# After these a person is likened to something, unless somebody likes it.
_LIKENING = ("is", "are", "was", "were", "am", "be", "as", "like")


def encoder_prompt(prompt: str, *, negative: bool = False) -> str:
    """Returns the words that the text encoder is given for a prompt, a rainbow's if it holds nothing to draw.

    For a `negative` prompt that holds nothing these are none, and colours alone count: they stay out of the picture.

    Raises:
        OSError: the list of names cannot be read.
    """
    phrases = _drawn_phrases(prompt, WORDS)
    several = len([phrase for phrase in phrases if not (phrase.is_ground or phrase.is_place)]) > 1
    texts = [_text(phrase, sized=not several) for phrase in phrases]
    links = [_learned_link(before, phrase) for before, phrase in pairwise(phrases)]
    joined = (f"{link} {text}".strip() for link, text in zip(links, texts[1:], strict=True))
    told = " ".join([*texts[:1], *joined])
    return told or (_colours_alone(prompt) if negative else RAINBOW)


def _colours_alone(prompt: str) -> str:
    """Returns the colours of a prompt that names nothing else, known or not."""
    phrases = read_phrases(prompt, WORDS)
    if any(phrase.unknown or phrase.of("name") for phrase in phrases):
        return ""
    return " ".join(colour for phrase in phrases for colour in phrase.of("colour"))


def known_words(prompt: str, *, words: Path = WORDS) -> list[str]:
    """Returns the names and colours of the prompt that the demo model draws, in lower case; none for a rainbow.

    Plurals and possessives count, and the longest name wins: "two slices of cake" gives ["slices of cake"], "my cat's
    toy" ["cat"].

    Raises:
        OSError: the list of names cannot be read.
    """
    phrases = _drawn_phrases(prompt, words)
    return [item.text for phrase in phrases for item in phrase.items if item.kind in ("name", "colour")]


def _drawn_phrases(prompt: str, words: Path) -> list[Phrase]:
    """Returns the phrases of the prompt that hold something to draw, without what is not drawn; grounds come last."""
    if people.has_insult(" ".join(prompt.lower().split())):
        return []
    phrases = read_phrases(prompt, words)
    _without_insults(phrases)
    for phrase in phrases:
        _without_paint_on_people(phrase)
    drawn: list[Phrase] = []
    links: list[str] = []
    for phrase in phrases:
        links += phrase.links
        for_whom = bool(drawn) and phrase.links[-1:] == ["for"]  # "a cake for my mum" shows no mum
        if (phrase.of("name") or phrase.is_ground) and not for_whom:
            phrase.links, links = links, []
            drawn.append(phrase)
    things = [phrase for phrase in drawn if not phrase.is_ground]
    if len(things) > 1 and things[0].link in PLACING:  # "at night a cat" is "a cat at night"
        things.append(things.pop(0))
    return [*things, *(phrase for phrase in drawn if phrase.is_ground)] if things else []


def _text(phrase: Phrase, *, sized: bool) -> str:
    """Returns its words as the model learned them; sizes were only taught of things that are alone."""
    items = [item for item in phrase.items if sized or item.kind != "size"]
    rest = " ".join(_DRAWN_BETTER.get(item.text, item.text) for item in items)
    article = {"u": "", "a": "an", "e": "an", "i": "an", "o": "an"}.get(rest[0], "a")  # "a unicorn", "an umbrella"
    head = [article or word if word in ("a", "an") else word for word in phrase.head]
    return " ".join([*head, rest])


def _learned_link(before: Phrase, phrase: Phrase) -> str:
    """Returns what joins a phrase to the one before as the model was taught; "and" draws two things side by side."""
    link = phrase.link
    if phrase.is_ground:
        return link or "on"
    name = phrase.of("name")[-1]
    if phrase.is_place:
        taught = link if link in PLACING or link == "and" else "in"
        return "" if name == "outside" else "in" if name == "garden" and link == "with" else taught
    if name in WORN and link in WEARING:
        return link if before.of("name")[-1] in HEADS else "and"
    return link if link in JOINING else "and"


def _without_insults(phrases: list[Phrase]) -> None:
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


def _is_likened(phrases: list[Phrase], number: int) -> bool:
    """Returns whether a person is likened to the thing of this phrase: "Anna is a pig", "a pig faced man"."""
    phrase, before = phrases[number], [earlier for earlier in phrases[:number] if not earlier.is_empty]
    names = phrase.of("name")
    behind = phrases[number + 1] if number + 1 < len(phrases) else None
    if behind and behind.is_adjacent and behind.is_person:
        return True
    first = 0 if before or phrase.head else 1  # "an Obama monkey", and "Fluffy pig", which begins a sentence
    if any(word.is_capitalised for word in phrase.unknown[first:]):
        return not any(item.is_capitalised for item in phrase.items)
    if not before:
        return False
    subject, link = before[-1], phrase.links[-1:]
    if link and link[0] in _LIKENING:
        return subject.is_person or not (subject.of("name") or subject.head)
    persons = any(earlier.is_person for earlier in before)
    return persons and (link == ["of"] or any(name.endswith((" face", " head")) for name in names))


def _without_paint_on_people(phrase: Phrase) -> None:
    """Takes the colours from persons and parts of a body, and what stands before a person: "a pizza man"."""
    names = phrase.of("name")
    if phrase.is_person or any(people.is_body_part(name) for name in names):
        phrase.items = [item for item in phrase.items if item.kind in ("name", "size")]
    persons = [number for number, item in enumerate(phrase.items) if item.text in people.PERSONS]
    if persons:
        phrase.items = [item for number, item in enumerate(phrase.items) if number >= persons[0] or item.kind == "size"]
