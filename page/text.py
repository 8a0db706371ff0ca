"""The sentences that tell a visitor how a drawing goes, in his language: the living one, errors, notices.

A name that ends with `html` gives HTML, in which all that comes from outside is escaped. `words`: the language; what
programs get is English.
"""

import re
from html import escape, unescape

from drawing.events import Cancelled, Event, Failed, Picture, Queued, Step, Waking
from drawing.models import GeneratedImage
from drawing.status import BackendStatus
from errors import (
    Absence,
    AwayError,
    DrawingError,
    EndpointAnswerError,
    EndpointUnreachableError,
    EndpointUntrustedError,
    FairError,
    InvalidRequestError,
    ServiceError,
    SettingsError,
    SpaceError,
    StartError,
)
from page import absence as page_absence
from page.language import ENGLISH, Words
from page.redact import without_addresses
from page.translation import from_below

STATUS_TEMPLATE = '<div role="status" aria-live="polite">${value}</div>'

DEMO_EXAMPLES = (
    "a red apple",
    "a cat wearing sunglasses",
    "a house at night",
    "two red hearts",
    "a unicorn under a rainbow",
    "an apple and a banana",
    "a blue car on a yellow background",
    "a birthday cake",
)
EXAMPLES = (
    "a lighthouse in a storm, oil painting",
    "a red fox in fresh snow, morning light",
    "a cosy library inside a giant tree, storybook illustration",
    "an astronaut tending a garden on the moon, photograph",
    "a bowl of ramen, studio light, close-up",
    "a paper-cut mountain landscape at dusk",
)

# What went wrong and what a visitor can do about it, by the names of their sentences. The page shows the first that
# fits, and the maintainer's details below it. "The machine that draws" is a GPU at home or, in the demo, this machine.
_KINDS: tuple[tuple[type[SpaceError], str, str], ...] = (
    (SettingsError, "trouble_settings", "maintainer_only"),
    (EndpointUnreachableError, "trouble_unreachable", "again_soon"),
    (EndpointUntrustedError, "trouble_untrusted", "maintainer_only"),
    (EndpointAnswerError, "trouble_answer", "again_soon"),
    (StartError, "trouble_start", "again_or_maintainer"),
    (FairError, "trouble_fair", "again_or_maintainer"),
    (ServiceError, "trouble_service", "again_soon"),
)
_QUIET_S = 3.0
_TAG = re.compile(r"<[^>]*>")
_WORDS_SHOWN, _WORD_CHARS = 12, 40  # of a prompt's unused words
_WRITTEN_FOR_VISITORS = ("NSFW_CONTENT_DETECTED",)  # codes of a DrawingError whose message says what to do


def idle(status: BackendStatus, words: Words = ENGLISH) -> str:
    """The sentence before anything was asked for."""
    if status.away:
        away = page_absence.sketching_html if status.stand_in else page_absence.away_html
        return away(status.absence or Absence(), words)
    if status.ready:
        return words["ready_when_you_are"]
    wakes = status.wakes_in_s
    asleep = words("asleep_wakes", seconds=seconds_range(wakes, words)) if wakes else words["asleep"]
    return words["between_sentences"].join((words["ready_when_you_are"], asleep))


def error_text(error: SpaceError) -> str:
    """The error for a program that called, as plain text: what went wrong in a visitor's words, then the error's own
    message, which names the link that failed and no address. Alone where that message is written for visitors.
    """
    kind = _kind(error, ENGLISH)
    return f"{kind[0]} {without_addresses(str(error))}" if kind else str(error)


def error_html(error: SpaceError, words: Words = ENGLISH) -> str:
    """The error for the page: what went wrong and what to do, and the maintainer's details set apart below it."""
    kind = _kind(error, words)
    if isinstance(error, AwayError):
        told = page_absence.away_html(error.absence, words)
    elif kind:
        told = escape(words["between_sentences"].join(kind))
    elif isinstance(error, DrawingError) and error.code not in _WRITTEN_FOR_VISITORS:
        told = escape(words["trouble_drawing"])
    else:
        return f'<span class="error"{_of_parameter(error)}>{escape(from_below(str(error), words))}</span>'
    details = escape(without_addresses(str(error)))
    return (
        f'<span class="error">{told}</span>'
        f'<details><summary>{words["details"]}</summary><p lang="en">{details}</p></details>'
    )


def _of_parameter(error: SpaceError) -> str:
    """Which parameter is wrong, for the browser to mark its field."""
    named = error.parameter if isinstance(error, InvalidRequestError) else None
    return f' data-parameter="{named}"' if named else ""


def _kind(error: SpaceError, words: Words) -> tuple[str, str] | None:
    """What went wrong and what to do about it, in a visitor's words; None where the error's own message says it."""
    if isinstance(error, AwayError):
        return page_absence.sentence(error.absence, words), page_absence.advice(error.absence, words)
    return next(((words[told], words[advice]) for kind, told, advice in _KINDS if isinstance(error, kind)), None)


def event_html(event: Event, elapsed_s: float, words: Words = ENGLISH) -> str:
    """The sentence for the newest event of a job.

    `elapsed_s`: seconds since the visitor asked.
    """
    match event:
        case Waking(stage=stage, wakes_in_s=wakes_in_s):
            told = from_below(stage.rstrip(". …"), words)
            wakes = wakes_in_s and words("waking_wakes", stage=told, seconds=seconds_range(wakes_in_s, words))
            return waiting_html(wakes or told, elapsed_s, words)
        case Queued(place=place, about_s=about_s):
            where = words["in_line_next"] if place <= 1 else words("in_line", place=place)
            told = where if about_s is None else words("in_line_about", where=where, about=about(about_s, words))
            return waiting_html(told, elapsed_s, words)
        case Step(arriving=True):
            return waiting_html(words["arriving"], elapsed_s, words)
        case Step(step=step, num_inference_steps=steps):
            numbers = f'data-step="{step}" data-steps="{steps}"'
            told = words("drawing_step", step=step, steps=steps)
            return f'{words["drawing"]}<span aria-hidden="true" {numbers}>{told}</span>'
        case Picture(generated=generated):
            return picture_html(generated, elapsed_s, words=words)
        case Failed(error=error):
            return error_html(error, words)
        case Cancelled():
            return words["cancelled"]


def seconds_range(seconds: tuple[int, int], words: Words = ENGLISH) -> str:
    """A time that is not known exactly: "20 to 35 s"."""
    least, most = seconds
    return words("seconds_range", least=least, most=most) if least < most else words("about_seconds", seconds=most)


def plain(event: Event | None, elapsed_s: float, quiet_s: float = 0.0) -> str:
    """The sentence for the newest event, None before the first, as plain text for programs.

    `quiet_s`: seconds since that event; a step that stands still is told.
    """
    if event is None:
        return f"{ENGLISH['asked']}…"
    if isinstance(event, Failed):
        return error_text(event.error)
    quiet = f", no news for {quiet_s:.0f} s" if isinstance(event, Step) and quiet_s >= _QUIET_S else ""
    return unescape(_TAG.sub("", event_html(event, elapsed_s))) + quiet


def about(seconds: float, words: Words = ENGLISH) -> str:
    """A time as one would say it: "about 20 s", "about 3 min"."""
    if seconds < 100:
        return words("about_seconds", seconds=f"{seconds:.0f}")
    return words("about_minutes", minutes=f"{seconds / 60:.0f}")


def picture_html(generated: GeneratedImage, elapsed_s: float, note: str = "", words: Words = ENGLISH) -> str:
    """The sentence for a finished picture, and in a line of its own which words of the prompt the model did not read.

    `note`: what else to say of the picture, plain text.
    """
    told = generated.receipt
    notes = [part for part in (*(from_below(part, words) for part in told.substituted), note) if part]
    sentence = words(
        "done",
        seconds=words("short_s", count=words.number(elapsed_s, 1)),
        machine=words("done_machine", machine=told.worker) if told.worker else "",
        seed="" if generated.seed is None else words("done_seed", seed=generated.seed),
    )
    if notes:
        ended = (f"{part.rstrip('.。')}{words['full_stop']}" for part in (sentence, *notes))
        sentence = words["between_sentences"].join(ended)
    return escape(sentence) + _unused_html(told.unused_words, words)


def _unused_html(unused: tuple[str, ...], words: Words) -> str:
    if not unused:
        return ""
    shown = " ".join(word if len(word) <= _WORD_CHARS else f"{word[:_WORD_CHARS]}…" for word in unused[:_WORDS_SHOWN])
    rest = len(unused) - _WORDS_SHOWN
    more = words.count("unused_more", rest) if rest > 0 else ""
    return f'<p class="unused">{escape(words("unused_words", words=shown, more=more), quote=False)}</p>'


def waiting_html(what: str, elapsed_s: float, words: Words = ENGLISH) -> str:
    """A stage with the seconds that it has lasted. A screen reader reads the stage alone, once."""
    seconds = words("short_s", count=f"{elapsed_s:.0f}")
    counted = "" if elapsed_s < 1 else f'<span class="seconds" aria-hidden="true"> · {seconds}</span>'
    return f"{escape(what.rstrip('.… '))}…{counted}"


def notice_html(status: BackendStatus, words: Words = ENGLISH) -> str:
    """What a visitor should know beforehand: that the model is a tiny one. Empty when a GPU draws."""
    if status.kind == "workers" or not status.demo:  # workers come and go while the page stands: `idle` tells
        return ""
    return f"<p>{words['demo']}</p>"
