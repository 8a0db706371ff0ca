"""The page's sentences in the visitor's language: one file of `words/` each, with the same names and places in all.

A file is named after the tag that stands in the page's `lang`. A place such as {seconds} gets a value. A name that ends
with `_one` is said where its number is 1.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).with_name("words")
_PLACE = re.compile(r"\{(\w+)\}")
_CHOICES_MAX = 20  # of an Accept-Language header, which anybody may make long


class Words:
    """The sentences of one language, by their names. `tag`: the language as HTML's `lang` has it."""

    def __init__(self, tag: str, sentences: Mapping[str, str]) -> None:
        self.tag = tag
        self._sentences = sentences

    def __getitem__(self, name: str) -> str:
        return self._sentences[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sentences)

    def __call__(self, name: str, /, **values: object) -> str:
        """The sentence with each of `values` in its place."""
        return _PLACE.sub(lambda place: str(values[place[1]]), self[name])

    def count(self, name: str, count: int, /, **values: object) -> str:
        """The sentence for a number of things, which stands at {count}."""
        return self(f"{name}_one" if count == 1 else name, count=count, **values)

    def number(self, value: float, digits: int | None = None) -> str:
        """The number as this language writes it; `digits` behind the decimal mark, None: as few as will do."""
        written = f"{value:g}" if digits is None else f"{value:.{digits}f}"
        return written.replace(".", self["decimal_mark"])


def _read(file: Path) -> Words:
    return Words(file.stem, json.loads(file.read_text(encoding="utf-8")))


ENGLISH = _read(_FOLDER / "en.json")
LANGUAGES: Mapping[str, Words] = {"en": ENGLISH} | {
    file.stem: _read(file) for file in sorted(_FOLDER.glob("*.json")) if file.stem != "en"
}


def words_for(accept_language: str | None, asked: str | None = None) -> Words:
    """The sentences in the language that a visitor prefers, English where there is none of those.

    `accept_language`: the HTTP header; `asked`: the tag in the page's address, which goes before it. A tag stands for
    its whole language: `pt-PT` gets what there is in Portuguese.
    Source: RFC 9110, 12.5.4.
    """
    weighed = [] if not asked else [(2.0, asked)]
    for choice in (accept_language or "").split(",")[:_CHOICES_MAX]:
        tag, _, told = choice.partition(";")
        try:
            weighed.append((float(told.strip().removeprefix("q=") or 1), tag))
        except ValueError:
            continue
    for weight, tag in sorted(weighed, key=lambda one: -one[0]):
        language = tag.strip().lower().partition("-")[0]
        found = next((words for known, words in LANGUAGES.items() if known.lower().partition("-")[0] == language), None)
        if found is not None and weight > 0:
            return found
    return ENGLISH


def words_of(request: Any) -> Words:
    """The sentences for a request of Starlette's or Gradio's; English where nothing is known of it."""
    headers, query = getattr(request, "headers", None), getattr(request, "query_params", None)
    return words_for((headers or {}).get("accept-language"), (query or {}).get("lang"))
