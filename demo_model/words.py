"""Reads a prompt as words that the demo model knows, words of grammar, and the rest. Standard library only.

The list `weights/words.txt` goes with the weights: a name of a thing, a colour or a place, one a line.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from demo_model.loader import WEIGHTS
from demo_model.plurals import plural

WORDS_NAME = "words.txt"
WORDS = WEIGHTS / WORDS_NAME
_LONGEST = 6  # words in a name
_TOKEN = re.compile(r"[^\W_\u0300-\u036f][\u0300-\u036f]*(?:['-]?[^\W_\u0300-\u036f][\u0300-\u036f]*)*|[^\w\s]")
_COLOURS = frozenset({"red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "brown", "white", "grey"})
# Words of grammar, each with what it does; those of several words are read as one. The model was taught most of them.
_GRAMMAR = {
    "colour": (*_COLOURS, "light blue"),
    "article": ("a", "an", "the", "my", "one", "this", "our", "your", "his", "her", "that", "these", "its", "their"),
    "number": (
        "two", "2", "three", "3", "a pair of", "two pairs of", "a couple of", "some", "many", "a few",
        "pair of", "couple of", "few",
    ),
    "size": ("small", "tiny", "mini", "big", "huge", "large", "giant"),
    "link": (
        "and", "with", "next to", "beside", "together with", "near", "wearing", "that wears", "in", "on", "at", "by",
        "under", "below", "among", "through", "before", "in front of", "on top of", "at the side of",
        "behind", "inside", "over", "above", "for", "of", "is", "are", "was", "were", "am", "be", "as", "like",
    ),
    "ground": ("background",),
    "filler": (
        "please", "draw", "make", "show", "give", "can", "want", "picture", "photo", "image", "drawing", "it", "there",
        "what", "would", "see", "who", "which",
    ),
}  # fmt: skip
_KINDS = {spelling: kind for kind, spellings in _GRAMMAR.items() for spelling in spellings}
# Spelled in another way than the model learned; more than three things it draws as three.
_SPELLINGS = {
    "gray": "grey", "&": "and", "wears": "wearing", "four": "many", "five": "many", "six": "many", "seven": "many",
    "eight": "many", "nine": "many", "ten": "many", "several": "many", "outdoors": "outside",
}  # fmt: skip
# Names that the list has not. The training's captions have the first two; `demo_model.prompt` rewords the others.
_MORE_NAMES = frozenset({"outside", "face", "ball", "cup"})
_VERBS = frozenset({"like", "die", "paint", "painting"})  # names too: of a thumb, dice and pictures


@dataclass(frozen=True)
class Word:
    """One word of a prompt, or several that are one name.

    `kind`: "name", "colour", "article", "number", "size", "link", "ground" (the word "background"), "filler", "stop"
    (a punctuation mark) or "unknown".
    """

    text: str  # in lower case, as the model knows it
    kind: str
    is_capitalised: bool = False
    is_possessive: bool = False


def read(prompt: str, words: Path = WORDS) -> list[Word]:
    """Returns the words of the prompt in its order. The longest name wins: "slices of cake" is one.

    Raises:
        OSError: the list of names cannot be read.
    """
    text = unicodedata.normalize("NFKC", prompt).replace("\u2019", "'").replace("_", " ")
    return list(_words(_TOKEN.findall(text), _names(words)))


def _words(typed: list[str], names: frozenset[str]) -> Iterator[Word]:
    tokens = [token.lower() for token in typed]
    start = 0
    while start < len(tokens):
        for length in range(min(_LONGEST, len(tokens) - start), 0, -1):
            spelling = " ".join(tokens[start : start + length])
            spelling = _SPELLINGS.get(spelling, spelling)
            if (word := _known(spelling, names)) is not None:
                break
        else:
            word = Word(tokens[start], "unknown" if tokens[start][0].isalnum() else "stop")
        if word.text in _VERBS and word.kind == "name" and _is_verb(tokens, start):
            word = Word(word.text, "link" if word.text == "like" else "filler")
        yield Word(word.text, word.kind, typed[start][0].isupper(), word.is_possessive)
        start += length


def _known(spelling: str, names: frozenset[str]) -> Word | None:
    if spelling in _KINDS and spelling not in _VERBS:
        return Word(spelling, _KINDS[spelling])
    stem = spelling.removesuffix("'s")
    for candidate in (spelling, stem, spelling.replace("-", " "), stem.replace("-", " ")):
        if candidate in names:
            return Word(candidate, "name", is_possessive=spelling != stem)
    return None


def _is_verb(tokens: list[str], start: int) -> bool:
    """Returns whether the word is none of a thing: "I like cats", "paint a house", "a painting of a house"."""
    before, behind = tokens[max(0, start - 1) : start], tokens[start + 1 : start + 2]
    if tokens[start] in ("paint", "painting"):
        return bool(behind) and (behind[0] == "of" or behind[0] in _GRAMMAR["article"])
    return bool(behind) or (bool(before) and before[0] not in _GRAMMAR["article"])


@cache
def _names(words: Path) -> frozenset[str]:
    listed = frozenset(words.read_text(encoding="utf-8").splitlines()) - _COLOURS | _MORE_NAMES
    return listed | frozenset(plural(name) for name in listed) | {"oranges"}
