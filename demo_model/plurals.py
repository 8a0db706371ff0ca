"""English plurals of the names that the model knows. Standard library only."""

import re

_IRREGULAR = {
    "mouse": "mice", "woman": "women", "man": "men", "child": "children", "wolf": "wolves", "leaf": "leaves",
    "tooth": "teeth", "foot": "feet", "knife": "knives", "loaf": "loaves", "tomato": "tomatoes", "potato": "potatoes",
    "bus": "buses", "glass": "glasses", "octopus": "octopuses", "cactus": "cactuses", "dress": "dresses",
    "walrus": "walruses", "compass": "compasses", "goose": "geese", "person": "people",
}  # fmt: skip
_UNCHANGED = ("s", "ing", "dice", "sheep", "fish", "deer")


def plural(name: str) -> str:
    """Returns the plural: "slice of cake" gives "slices of cake"; what already is one, or has none, stays."""
    head, of, rest = name.partition(" of ")
    before, space, last = head.rpartition(" ")
    return before + space + _plural_of_word(last) + of + rest


def _plural_of_word(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith(_UNCHANGED):
        return word
    if re.search(r"[^aeiou]y$", word):
        return f"{word[:-1]}ies"
    return word + ("es" if word.endswith(("sh", "ch", "x")) else "s")
