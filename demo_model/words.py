"""Which words of a prompt the demo model knows. Standard library only.

The list `weights/words.txt` goes with the weights: a name of a thing, a colour or a place, one a line.
"""

import re
from functools import cache
from pathlib import Path

from demo_model.archive import WEIGHTS
from demo_model.plurals import plural

WORDS_NAME = "words.txt"
_LONGEST = 6  # words in a name


def known_words(prompt: str, *, words: Path = WEIGHTS / WORDS_NAME) -> list[str]:
    """Returns the names of the prompt that the demo model draws something for, in the prompt's order and lower case.

    Empty where it knows none: it then draws whatever comes. Plurals and possessives count, and the longest name wins:
    "two slices of cake" gives ["slices of cake"], "my cat's toy" ["cat"].

    Raises:
        OSError: the list cannot be read.
    """
    known = _known(words)
    tokens = re.findall(r"[a-z0-9]+(?:['-][a-z0-9]+)*", prompt.lower().replace("\u2019", "'"))
    found: list[str] = []
    start = 0
    while start < len(tokens):
        spellings = (" ".join(tokens[start : start + length]) for length in range(_LONGEST, 0, -1))
        candidates = (name for spelling in spellings for name in (spelling, spelling.removesuffix("'s")))
        name = next((candidate for candidate in candidates if candidate in known), None)
        if name is not None:
            found.append(name)
        start += len(name.split()) if name is not None else 1
    return found


@cache
def _known(words: Path) -> frozenset[str]:
    names = words.read_text(encoding="utf-8").splitlines()
    return frozenset(names) | frozenset(plural(name) for name in names)
