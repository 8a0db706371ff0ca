"""Words beyond the text encoder's window: which words of a prompt count as unused."""

import pytest

from inference_server.engines.prompt_window import unused_words

BOS_AND_EOS = 2


def count_clip_like(text: str) -> int:
    """One token a word and one a comma, as CLIP's tokenizer has it, between BOS and EOS."""
    return len(text.replace(",", " , ").split()) + BOS_AND_EOS


@pytest.mark.parametrize(
    ("text", "window", "unused"),
    [
        ("", 2, ()),
        ("a red cat", 5, ()),
        ("a red cat", 4, ("cat",)),
        ("a red,  cat\nwith a hat", 6, ("with", "a", "hat")),
        ("a cat, a dog", 5, ("a", "dog")),
        ("a cat", 2, ("a", "cat")),
    ],
)
def test_words_beyond_the_window_are_told_as_typed(text: str, window: int, unused: tuple[str, ...]) -> None:
    """A word is unused when no token of the window is left for it; BOS and EOS take two places."""
    assert unused_words(text, count_clip_like, window) == unused


def test_a_word_cut_in_its_middle_counts_as_used() -> None:
    """The encoder sees its beginning."""
    assert unused_words("ab cdef gh", lambda text: len(text.replace(" ", "")), window=3) == ("gh",)


def test_a_long_prompt_is_counted_a_few_times_only() -> None:
    """A prompt of 1,000 words needs about ten counts, not one a word."""
    counts = []

    def count(text: str) -> int:
        counts.append(text)
        return count_clip_like(text)

    assert len(unused_words("word " * 1000, count, 77)) == 925
    assert len(counts) < 15
