"""Sentences that are written before their reader is known: in Gradio's config, one for all, and English from below.

Gradio's own `gr.I18n` would send every language to every visitor, knows labels alone, and follows the browser where the
address asks for another language. So Gradio gets marks, and the sentences take their places when the page is served.
"""

import functools
import re
from collections.abc import Iterator

from page.language import ENGLISH, Words

# Of Unicode's private use: in no text, and unchanged by JSON and by HTML's escapes.
_BEGIN, _END, _VALUE, _IS = "\ue000", "\ue001", "\ue002", "\ue003"
_MARK = re.compile(f"{_BEGIN}([^{_BEGIN}{_END}{_VALUE}]*)((?:{_VALUE}[^{_BEGIN}{_END}{_VALUE}]*)*){_END}")
_NUMBER = "number"
_PLACE = re.compile(r"\\\{(\w+)\\\}")
_FROM_BELOW = ("stage_", "refused_", "field_")  # how the names of sentences begin that are written below the page


class _Marks(Words):
    """Says of each sentence which one it is; `said` says it."""

    def __init__(self) -> None:
        super().__init__("", {})

    def __getitem__(self, name: str) -> str:
        return f"{_BEGIN}{name}{_END}"

    def __call__(self, name: str, /, **values: object) -> str:
        return f"{_BEGIN}{name}{''.join(f'{_VALUE}{key}{_IS}{value}' for key, value in values.items())}{_END}"

    def number(self, value: float, digits: int | None = None) -> str:
        return self(_NUMBER, value=ENGLISH.number(value, digits))


ANY_LANGUAGE: Words = _Marks()


def said(text: str, words: Words) -> str:
    """The text, HTML or JSON, with the sentences of this language in place of their marks.

    No sentence has a character that HTML or JSON would want escaped.
    """

    def sentence(mark: re.Match[str]) -> str:
        values: dict[str, str] = dict(value.partition(_IS)[::2] for value in mark[2].split(_VALUE)[1:])
        if mark[1] == _NUMBER:
            return values["value"].replace(".", words["decimal_mark"])
        return words(mark[1], **values)

    while _BEGIN in text and (once := _MARK.sub(sentence, text)) != text:  # the innermost first
        text = once
    return text


def from_below(english: str, words: Words) -> str:
    """A sentence that the service, a backend or the inference server wrote in English, in this language.

    As it is where the words know none like it.
    """
    if words.tag == ENGLISH.tag:
        return english
    for name, pattern in _patterns():
        if found := pattern.fullmatch(english):
            return words(name, **{place: from_below(value, words) for place, value in found.groupdict().items()})
    return english


@functools.cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    """What the English sentences from below look like; those with the most text of their own come first."""

    def patterns() -> Iterator[tuple[str, re.Pattern[str]]]:
        for name in sorted(
            filter(lambda name: name.startswith(_FROM_BELOW), ENGLISH), key=lambda name: -len(ENGLISH[name])
        ):
            yield name, re.compile(_PLACE.sub(r"(?P<\1>.+?)", re.escape(ENGLISH[name])), re.DOTALL)

    return list(patterns())
