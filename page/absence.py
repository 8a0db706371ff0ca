"""What a visitor reads while the owner's machine draws nothing: since when, or until when, and what to do.

A moment is said as time that is left, or has passed, since nobody here knows the visitor's clock. In HTML it stands in
a `<time>`, where page.js puts the visitor's own time of day.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from errors import Absence

OFF, COME_BACK = "The machine that draws is off right now.", "Its owner has to start it: please come back later."
_Say = Callable[[str, str, float], str]  # (words, words around the moment, the moment) -> text


def sentence(absence: Absence) -> str:
    """Why nothing is drawn, plain."""
    return _sentence(absence, _plain)


def advice(absence: Absence) -> str:
    """What to do about it, plain."""
    return _advice(absence, _plain)


def away_html(absence: Absence) -> str:
    """Both, where nobody stands in."""
    return f"{_sentence(absence, _html)} {_advice(absence, _html)}"


def sketching_html(absence: Absence) -> str:
    """The same where a small model stands in."""
    back = "it is back" if absence.reason == "off" else "it draws again"
    return f"{_sentence(absence, _html)} Until {back}, a small model sketches for you."


def _sentence(absence: Absence, say: _Say) -> str:
    match absence.reason:
        case "paused" if absence.until is not None:
            left = f"for {_long(absence.until - time.time(), 'another')}"
            return f"The machine that draws is paused by its owner {say(left, 'until {}', absence.until)}."
        case "paused":
            return "The machine that draws is paused by its owner."
        case "budget":
            return "The machine that draws has drawn its minutes for today."
    if absence.since is None:
        return OFF
    ago = f"for {_long(time.time() - absence.since)}"
    return f"The machine that draws has been off {say(ago, 'since {}', absence.since)}."


def _advice(absence: Absence, say: _Say) -> str:
    if absence.reason == "off":
        return COME_BACK
    if absence.until is None:
        return "Please come back later."
    if absence.reason == "paused":
        return "Please come back then."
    left = f"in {_long(absence.until - time.time())}"
    return f"It draws again {say(left, 'at {}', absence.until)}: please come back then."


def _plain(words: str, around: str, moment: float) -> str:
    return words


def _html(words: str, around: str, moment: float) -> str:
    stamp = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f'<time datetime="{stamp}" data-around="{around}">{words}</time>'


def _long(seconds: float, more: str = "") -> str:
    """`a minute`, `another minute`, `40 minutes`, `3 hours` or `2 days`."""
    minutes = max(1, round(seconds / 60))
    if minutes < 100:
        return f"{more} {minutes} minutes".lstrip() if minutes > 1 else f"{more or 'a'} minute"
    hours = round(minutes / 60)
    return f"{more} {hours} hours".lstrip() if hours < 48 else f"{more} {round(hours / 24)} days".lstrip()
