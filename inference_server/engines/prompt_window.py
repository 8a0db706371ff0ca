"""Finds the words of a prompt that a text encoder never sees, because they lie beyond its window of tokens."""

import re
from bisect import bisect_left
from collections.abc import Callable


def unused_words(text: str, count_tokens: Callable[[str], int], window: int) -> tuple[str, ...]:
    """The words of `text`, as typed, that begin beyond the first `window` tokens; all later ones with them.

    `count_tokens` counts the tokens of a text without cutting it. It counts BOS and EOS if `window` has room for them
    (77 of CLIP) and leaves them out if it has not (75). A word that is cut in its middle counts as used.
    """
    if count_tokens(text) <= window:
        return ()
    words = list(re.finditer(r"\S+", text))
    first = bisect_left(words, window, key=lambda word: count_tokens(text[: word.start()].rstrip()))
    return tuple(word[0] for word in words[first:])
