"""English plurals of the names that the model knows. Standard library only."""

import re

_IRREGULAR = {
    "mouse": "mice", "woman": "women", "man": "men", "child": "children", "wolf": "wolves", "leaf": "leaves",
    "tooth": "teeth", "foot": "feet", "knife": "knives", "loaf": "loaves", "tomato": "tomatoes", "potato": "potatoes",
    "bus": "buses", "glass": "glasses", "octopus": "octopuses", "cactus": "cactuses", "dress": "dresses",
    "walrus": "walruses", "compass": "compasses", "goose": "geese", "person": "people",
}  # fmt: skip
_UNCHANGED = ("s", "ing", "dice", "sheep", "fish", "deer")
_COME_IN_PAIRS = {
    "jeans", "trousers", "pants", "shorts", "glasses", "eyeglasses", "spectacles", "sunglasses", "shades", "scissors",
    "headphones", "gloves", "socks", "trainers", "skates", "skis",
}  # fmt: skip


def plural(name: str) -> str:
    """Returns the plural: "slice of cake" gives "slices of cake"; what already is one, or has none, stays."""
    head, of, rest = name.partition(" of ")
    before, space, last = head.rpartition(" ")
    return before + space + _plural_of_word(last) + of + rest


def comes_in_pairs(name: str) -> bool:
    """Returns whether one picture of it shows "a pair of" it: "blue jeans", "reading glasses", not "shoe"."""
    return name.rpartition(" ")[2] in _COME_IN_PAIRS


def _plural_of_word(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith(_UNCHANGED):
        return word
    if re.search(r"[^aeiou]y$", word):
        return f"{word[:-1]}ies"
    return word + ("es" if word.endswith(("sh", "ch", "x")) else "s")
