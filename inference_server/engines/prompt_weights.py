"""Reads the weights that people write into prompts: `(word)`, `(word:1.3)`, `[word]`, nested as they like.

Round brackets weigh 1.1 times as much, square ones 1.1 times as little, a number says it; a backslash makes a bracket
mean itself. What other programs understand beside that is left out of the text, and told: `<lora:...>`, `[a:b:0.5]`,
BREAK.
Source: https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#attentionemphasis
"""

import re
from dataclasses import dataclass

STEP = 1.1
MAX_WEIGHT = 4.0  # beyond, half precision ends in pictures that are none
_FOREIGN = re.compile(r"<[A-Za-z]+:[^<>]*>|\[[^\[\]()]*:[^\[\]()]*:\s*[\d.]+\s*\]|\bBREAK\b")
_PARTS = re.compile(
    r"\\(?P<escaped>[()\[\]\\])|(?P<open>[(\[])|:\s*(?P<weight>\d+\.?\d*|\.\d+)\s*\)|(?P<close>[)\]])"
    r"|(?P<text>[^\\()\[\]:]+|.)",
    re.DOTALL,
)


@dataclass(frozen=True)
class WeightedPrompt:
    """Pieces of a prompt with their weights (1: as usual), and what was not understood, as typed."""

    pieces: tuple[tuple[str, float], ...]
    unused: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The prompt without its weights."""
        return "".join(text for text, _ in self.pieces)

    @property
    def is_weighted(self) -> bool:
        return any(weight != 1 for _, weight in self.pieces)

    def up_to(self, chars: int) -> "WeightedPrompt":
        """The first `chars` characters of the text."""
        pieces, left = [], chars
        for text, weight in self.pieces:
            pieces.append((text[:left], weight))
            left -= min(left, len(text))
        return WeightedPrompt(tuple(piece for piece in pieces if piece[0]), self.unused)


def plain(prompt: str) -> WeightedPrompt:
    """Every character means itself."""
    return WeightedPrompt(((prompt, 1.0),))


def read(prompt: str) -> WeightedPrompt:
    """A bracket without its partner weighs all that follows, or, closing, means itself."""
    unused = tuple(found[0] for found in _FOREIGN.finditer(prompt))
    pieces: list[list[str | float]] = []
    open_brackets: list[tuple[str, int]] = []  # which, and the first piece inside

    def weigh(first: int, factor: float) -> None:
        for piece in pieces[first:]:
            piece[1] = float(piece[1]) * factor

    for part in _PARTS.finditer(_FOREIGN.sub("", prompt)):
        if part["open"]:
            open_brackets.append((part["open"], len(pieces)))
        elif part["weight"] and open_brackets and open_brackets[-1][0] == "(":
            weigh(open_brackets.pop()[1], float(part["weight"]))
        elif part["close"] and open_brackets and open_brackets[-1][0] == {")": "(", "]": "["}[part["close"]]:
            bracket, first = open_brackets.pop()
            weigh(first, STEP if bracket == "(" else 1 / STEP)
        else:
            pieces.append([part["escaped"] or part[0], 1.0])
    factor, opened = 1.0, iter([*open_brackets, ("", len(pieces))])
    bracket, first = next(opened)
    for index, piece in enumerate(pieces):
        while first <= index:
            factor *= STEP if bracket == "(" else 1 / STEP
            bracket, first = next(opened)
        piece[1] = float(piece[1]) * factor
    return WeightedPrompt(_joined(pieces), unused)


def _joined(pieces: list[list[str | float]]) -> tuple[tuple[str, float], ...]:
    """Neighbours of the same weight in one, each weight within bounds. White space alone weighs nothing."""
    joined: list[tuple[str, float]] = []
    for text, weight in ((str(text), min(MAX_WEIGHT, round(float(weight), 4))) for text, weight in pieces):
        if joined and (joined[-1][1] == weight or not text.strip()):
            joined[-1] = (joined[-1][0] + text, joined[-1][1])
        else:
            joined.append((text, weight))
    if joined and not joined[0][0].strip():
        joined[0] = (joined[0][0], 1.0)
    return tuple(joined) or (("", 1.0),)
