"""The sentence for several pictures of one prompt that are drawn at once."""

from collections.abc import Sequence
from dataclasses import replace

from drawing.events import Event, Failed, Picture, Queued, Step, Waking
from drawing.models import GeneratedImage
from errors import SpaceError
from page import text as page_text
from page.language import ENGLISH, Words
from page.translation import from_below


def several_html(
    events: Sequence[Event | None],
    elapsed_s: float,
    note: str = "",
    refused: SpaceError | None = None,
    words: Words = ENGLISH,
) -> str:
    """The sentence, by the newest event of each of them.

    `elapsed_s`: seconds since the visitor asked; `note`: what else to say, plain; `refused`: why there are no more.
    """
    made = [event.generated for event in events if isinstance(event, Picture)]
    there = ""
    if made:
        there = words.count("several_there", len(made), all=len(events)) + words["between_sentences"]
    waiting = [event for event in events if isinstance(event, Waking | Queued)]
    failed = next((event for event in events if isinstance(event, Failed)), None)
    if any(isinstance(event, Step) for event in events):
        return there + _drawing_html(events, words)
    if waiting:
        nearest = min(waiting, key=lambda event: event.place if isinstance(event, Queued) else 0)
        return there + page_text.event_html(nearest, elapsed_s, words)
    if None in events:
        return there + page_text.waiting_html(words["asked"], elapsed_s, words)
    if failed:
        return there + page_text.event_html(failed, elapsed_s, words)
    if made and len(made) < len(events):
        return words["several_cancelled"] + words["between_sentences"] + there.strip()
    return _made_html(made, elapsed_s, note, refused, words) if made else words["cancelled"]


def _drawing_html(events: Sequence[Event | None], words: Words) -> str:
    """Its numbers are of all the pictures together, for the bar and the time that is left."""
    steps = [event for event in events if isinstance(event, Step)]
    each = max(event.num_inference_steps for event in steps)
    made = sum(isinstance(event, Picture) for event in events)
    done, most = sum(event.step for event in steps) + each * made, each * len(events)
    what = words["drawing"] if made else words("several_drawing", count=len(events))
    told = words("drawing_step", step=done, steps=most)
    return f'{what}<span aria-hidden="true" data-step="{done}" data-steps="{most}">{told}</span>'


def _made_html(
    made: Sequence[GeneratedImage], elapsed_s: float, note: str, refused: SpaceError | None, words: Words
) -> str:
    first, last = made[0].seed, made[-1].seed
    count = words("several_made", count=len(made))
    if first is not None:
        count = words("several_made_seeds", count=len(made), first=first, last=last)
    fewer = words("several_refused", reason=from_below(str(refused), words)) if refused else ""
    between = words["full_stop"] + words["between_sentences"]
    notes = between.join(part.rstrip(".。") for part in (count, fewer, note) if part)
    return page_text.picture_html(replace(made[0], seed=None), elapsed_s, notes, words)
