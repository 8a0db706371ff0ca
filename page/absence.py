"""What a visitor reads while the owner's machine draws nothing: since when, or until when, and what to do.

A moment is said as time that is left, or has passed, since nobody here knows the visitor's clock. In HTML it stands in
a `<time>`, where the browser puts the visitor's own time of day.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from errors import Absence
from page.language import ENGLISH, Words

_Say = Callable[[str, str, float], str]  # (words, words around the moment, the moment) -> text


def sentence(absence: Absence, words: Words = ENGLISH) -> str:
    """Why nothing is drawn, plain."""
    return _why("away", absence, words, _plain)


def state(absence: Absence, words: Words = ENGLISH) -> str:
    """The same as the state of the machine: "paused by its owner for another 40 minutes", plain."""
    return _why("chain", absence, words, _plain)


def advice(absence: Absence, words: Words = ENGLISH) -> str:
    """What to do about it, plain."""
    return _advice(absence, words, _plain)


def away_html(absence: Absence, words: Words = ENGLISH) -> str:
    """Both, where nobody stands in."""
    return words["between_sentences"].join((_why("away", absence, words, _html), _advice(absence, words, _html)))


def sketching_html(absence: Absence, words: Words = ENGLISH) -> str:
    """The same where a small model stands in."""
    meanwhile = words["sketching_off" if absence.reason == "off" else "sketching"]
    return words["between_sentences"].join((_why("away", absence, words, _html), meanwhile))


def _why(kind: str, absence: Absence, words: Words, say: _Say) -> str:
    match absence.reason:
        case "paused" if absence.until is not None:
            left = _long("until", absence.until - time.time(), words)
            return words(f"{kind}_paused_until", when=say(left, words("until_time", time="{}"), absence.until))
        case "off" if absence.since is not None:
            ago = _long("since", time.time() - absence.since, words)
            return words(f"{kind}_off_since", when=say(ago, words("since_time", time="{}"), absence.since))
    return words[f"{kind}_{absence.reason}"]


def _advice(absence: Absence, words: Words, say: _Say) -> str:
    if absence.reason == "off":
        return words["back_when_started"]
    if absence.until is None:
        return words["back_later"]
    if absence.reason == "paused":
        return words["back_then"]
    left = _long("at", absence.until - time.time(), words)
    return words("back_at", when=say(left, words("at_time", time="{}"), absence.until))


def _plain(words: str, around: str, moment: float) -> str:
    return words


def _html(words: str, around: str, moment: float) -> str:
    stamp = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f'<time datetime="{stamp}" data-around="{around}">{words}</time>'


def _long(kind: str, seconds: float, words: Words) -> str:
    """`for another 40 minutes`, `for 3 hours`, `in 2 days`: `kind` is `until`, `since` or `at`."""
    minutes = max(1, round(seconds / 60))
    if minutes < 100:
        return words.count(f"{kind}_minutes", minutes)
    hours = round(minutes / 60)
    return words(f"{kind}_hours", count=hours) if hours < 48 else words(f"{kind}_days", count=round(hours / 24))
