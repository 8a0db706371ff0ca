"""Every word that a visitor reads: the sentence that tells how a drawing goes, errors, notices, examples.

A name that ends with `html` gives HTML, in which all that comes from outside is escaped.
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
from page.redact import without_addresses

TITLE = "Say it, see it"
HEADER_HTML = f"<h1>{TITLE}</h1>"
PROMPT_LABEL = "What would you like to see?"
EXAMPLES_LABEL = "Or pick one to fill in the prompt"
STATUS_TEMPLATE = '<div role="status" aria-live="polite">${value}</div>'
OFFLINE_HTML = (
    '<p role="alert" hidden>This page is offline just now. What you typed is kept, and it goes on by itself.</p>'
)
ASKED = "Asking for your picture"
ARRIVING = "Your picture is there; its full quality is on its way"
STILL_DRAWING = "One picture at a time: the last one is still being drawn. Cancel it, or wait a moment."

AWAY, SKETCHING = page_absence.away_html(Absence()), page_absence.sketching_html(Absence())
NO_KNOWN_WORDS = "This little model knows none of these words and drew what came to its mind."

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

_AGAIN = "Please try again in a moment."
_AGAIN_OR_MAINTAINER = "Please try again in a few minutes. If it stays like this, the maintainer has to mend it."
_MAINTAINER = "Trying again does not help: the maintainer has to mend this."

# What went wrong and what a visitor can do about it. The page shows the first that fits, and the maintainer's details
# below it. "The machine that draws" is a GPU at home or, in the demo, this machine itself.
_KINDS: tuple[tuple[type[SpaceError], str, str], ...] = (
    (SettingsError, "This page is not set up completely yet.", _MAINTAINER),
    (EndpointUnreachableError, "The machine that draws cannot be reached right now.", _AGAIN),
    (
        EndpointUntrustedError,
        "Something else answered in place of the machine that draws: nothing was drawn.",
        _MAINTAINER,
    ),
    (EndpointAnswerError, "The machine that draws sent something that is no picture.", _AGAIN),
    (StartError, "The machine that draws could not be started.", _AGAIN_OR_MAINTAINER),
    (FairError, "What wakes the machine that draws cannot be used right now.", _AGAIN_OR_MAINTAINER),
    (ServiceError, "Something went wrong on our side.", _AGAIN),
)
_QUIET_S = 3.0
_TAG = re.compile(r"<[^>]*>")
_WORDS_SHOWN, _WORD_CHARS = 12, 40  # of a prompt's unused words
_NOT_DRAWN = "This picture could not be drawn. Try other words or a smaller size."
_WRITTEN_FOR_VISITORS = ("NSFW_CONTENT_DETECTED",)  # codes of a DrawingError whose message says what to do


def idle(status: BackendStatus) -> str:
    """The sentence before anything was asked for."""
    if status.away:
        away = page_absence.sketching_html if status.stand_in else page_absence.away_html
        return away(status.absence or Absence())
    wakes = f" and wakes in {_range(status.wakes_in_s)}" if status.wakes_in_s else ""
    late = "The first picture takes a little longer"
    asleep = "" if status.ready else f" {late}: the machine that draws is asleep{wakes}."
    return f"Ready when you are.{asleep}"


def error_text(error: SpaceError) -> str:
    """The error for a program that called, as plain text: what went wrong in a visitor's words, then the error's own
    message, which names the link that failed and no address. Alone where that message is written for visitors.
    """
    kind = _kind(error)
    return f"{kind[0]} {without_addresses(str(error))}" if kind else str(error)


def error_html(error: SpaceError) -> str:
    """The error for the page: what went wrong and what to do, and the maintainer's details set apart below it."""
    kind = _kind(error)
    if isinstance(error, AwayError):
        told = page_absence.away_html(error.absence)
    elif kind:
        told = escape(" ".join(kind))
    elif isinstance(error, DrawingError) and error.code not in _WRITTEN_FOR_VISITORS:
        told = escape(_NOT_DRAWN)
    else:
        return f'<span class="error"{_of_parameter(error)}>{escape(str(error))}</span>'
    details = escape(without_addresses(str(error)))
    return (
        f'<span class="error">{told}</span>'
        f"<details><summary>Details for the maintainer</summary><p>{details}</p></details>"
    )


def _of_parameter(error: SpaceError) -> str:
    """Which parameter is wrong, for the browser to mark its field."""
    named = error.parameter if isinstance(error, InvalidRequestError) else None
    return f' data-parameter="{named}"' if named else ""


def _kind(error: SpaceError) -> tuple[str, str] | None:
    """What went wrong and what to do about it, in a visitor's words; None where the error's own message says it."""
    if isinstance(error, AwayError):
        return page_absence.sentence(error.absence), page_absence.advice(error.absence)
    return next(((sentence, advice) for kind, sentence, advice in _KINDS if isinstance(error, kind)), None)


def event_html(event: Event, elapsed_s: float) -> str:
    """The sentence for the newest event of a job.

    `elapsed_s`: seconds since the visitor asked.
    """
    match event:
        case Waking(stage=stage, wakes_in_s=wakes_in_s):
            wakes = f" (it wakes in {_range(wakes_in_s)})" if wakes_in_s else ""
            return waiting_html(f"{stage}{wakes}", elapsed_s)
        case Queued(place=place, about_s=about_s):
            where = "You are next in line" if place <= 1 else f"You are number {place} in line"
            return waiting_html(where if about_s is None else f"{where}, {about(about_s)}", elapsed_s)
        case Step(arriving=True):
            return waiting_html(ARRIVING, elapsed_s)
        case Step(step=step, num_inference_steps=steps):
            numbers = f'data-step="{step}" data-steps="{steps}"'
            return f'Drawing<span aria-hidden="true" {numbers}>: step {step} of {steps}</span>'
        case Picture(generated=generated):
            return picture_html(generated, elapsed_s)
        case Failed(error=error):
            return error_html(error)
        case Cancelled():
            return "Cancelled. Nothing was drawn."


def _range(seconds: tuple[int, int]) -> str:
    least, most = seconds
    return f"{least} to {most} s" if least < most else f"about {most} s"


def plain(event: Event | None, elapsed_s: float, quiet_s: float = 0.0) -> str:
    """The sentence for the newest event, None before the first, as plain text for programs.

    `quiet_s`: seconds since that event; a step that stands still is told.
    """
    if event is None:
        return f"{ASKED}…"
    if isinstance(event, Failed):
        return error_text(event.error)
    quiet = f", no news for {quiet_s:.0f} s" if isinstance(event, Step) and quiet_s >= _QUIET_S else ""
    return unescape(_TAG.sub("", event_html(event, elapsed_s))) + quiet


def about(seconds: float) -> str:
    """A time as one would say it: "about 20 s", "about 3 min"."""
    return f"about {seconds:.0f} s" if seconds < 100 else f"about {seconds / 60:.0f} min"


def picture_html(generated: GeneratedImage, elapsed_s: float, note: str = "") -> str:
    """The sentence for a finished picture, and in a line of its own which words of the prompt the model did not read.

    `note`: what else to say of the picture, plain text.
    """
    seed = "" if generated.seed is None else f", seed {generated.seed}"
    notes = [f" {part.rstrip('.')}." for part in (*generated.receipt.substituted, note) if part]
    on = f" on {generated.receipt.worker}" if generated.receipt.worker else ""
    sentence = escape(f"Done in {elapsed_s:.1f} s{on}{seed}{'.' if notes else ''}{''.join(notes)}")
    return sentence + _unused_html(generated.receipt.unused_words)


def _unused_html(words: tuple[str, ...]) -> str:
    if not words:
        return ""
    shown = " ".join(word if len(word) <= _WORD_CHARS else f"{word[:_WORD_CHARS]}…" for word in words[:_WORDS_SHOWN])
    more = len(words) - _WORDS_SHOWN
    rest = "" if more <= 0 else f" and {more} more {'word' if more == 1 else 'words'}"
    told = f"Your prompt is longer than this model reads. Not used: “{shown}”{rest}."
    return f'<p class="unused">{escape(told, quote=False)}</p>'


def waiting_html(what: str, elapsed_s: float) -> str:
    """A stage with the seconds that it has lasted. A screen reader reads the stage alone, once."""
    seconds = "" if elapsed_s < 1 else f'<span class="seconds" aria-hidden="true"> · {elapsed_s:.0f} s</span>'
    return f"{escape(what.rstrip('.… '))}…{seconds}"


def notice_html(status: BackendStatus) -> str:
    """What a visitor should know beforehand: that the model is a tiny one. Empty when a GPU draws."""
    if status.kind == "workers" or not status.demo:  # workers come and go while the page stands: `idle` tells
        return ""
    return f"<p>{_DEMO}</p>"


_DEMO = "A demo: a tiny model draws little pictures of everyday things."
