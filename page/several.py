"""The sentence for several pictures of one prompt that are drawn at once."""

from collections.abc import Sequence
from dataclasses import replace

from drawing.events import Event, Failed, Picture, Queued, Step, Waking
from drawing.models import GeneratedImage
from errors import SpaceError
from page import text as page_text


def several_html(
    events: Sequence[Event | None], elapsed_s: float, note: str = "", refused: SpaceError | None = None
) -> str:
    """The sentence, by the newest event of each of them.

    `elapsed_s`: seconds since the visitor asked; `note`: what else to say, plain; `refused`: why there are no more.
    """
    made = [event.generated for event in events if isinstance(event, Picture)]
    there = f"{len(made)} of {len(events)} pictures {'is' if len(made) == 1 else 'are'} there. " if made else ""
    waiting = [event for event in events if isinstance(event, Waking | Queued)]
    failed = next((event for event in events if isinstance(event, Failed)), None)
    if any(isinstance(event, Step) for event in events):
        return there + _drawing_html(events)
    if waiting:
        nearest = min(waiting, key=lambda event: event.place if isinstance(event, Queued) else 0)
        return there + page_text.event_html(nearest, elapsed_s)
    if None in events:
        return there + page_text.waiting_html(page_text.ASKED, elapsed_s)
    if failed:
        return there + page_text.event_html(failed, elapsed_s)
    if len(made) < len(events):
        return f"Cancelled. {there or 'Nothing was drawn.'}".strip()
    return _made_html(made, elapsed_s, note, refused)


def _drawing_html(events: Sequence[Event | None]) -> str:
    """Its numbers are of all the pictures together, for the bar and the time that is left."""
    steps = [event for event in events if isinstance(event, Step)]
    each = max(event.num_inference_steps for event in steps)
    made = sum(isinstance(event, Picture) for event in events)
    done, most = sum(event.step for event in steps) + each * made, each * len(events)
    what = "Drawing" if made else f"Drawing {len(events)} pictures"
    return f'{what}<span aria-hidden="true" data-step="{done}" data-steps="{most}">: step {done} of {most}</span>'


def _made_html(made: Sequence[GeneratedImage], elapsed_s: float, note: str, refused: SpaceError | None) -> str:
    seeds = "" if made[0].seed is None else f", seeds {made[0].seed} to {made[-1].seed}"
    fewer = f"No more of them at once. {refused}" if refused else ""
    notes = ". ".join(part.rstrip(".") for part in (f"{len(made)} pictures{seeds}", fewer, note) if part)
    return page_text.picture_html(replace(made[0], seed=None), elapsed_s, notes)
