"""Several pictures by one Draw: their seeds, what is told of them, and that what is there is not lost."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from drawing.events import Cancelled, Event, Failed, Picture, Queued, Step, Waking
from drawing.models import SEED_MAX, GenerationRequest
from errors import BusyError, DrawingError, InvalidRequestError
from page import drawings as page_drawings
from page.drawings import count_of
from page.handlers import Handlers
from page.several import several_html
from page.view import NO_JOB
from page.visitor import Visitor
from tests.support.page_service import StandInService, picture
from tests.support.processes import wait_until

_ADA = Visitor("ada", "192.0.2.1")
_VISITOR = gr.Request(session_hash="ada")
# In the order of View.outputs.
_STATUS, _PREVIEW, _DRAW, _CANCEL, _RESULT, _SEED, _JOB_ID, _PROMPT, _RECORDS = range(9)


def _start(service: StandInService, count: int, **parameters: Any) -> page_drawings.Drawings:
    return page_drawings.start(service, {"prompt": "a cat", **parameters}, count, _ADA)  # type: ignore[arg-type]


def _handlers(service: StandInService, folder: Path) -> Handlers:
    fields = ("prompt", "seed", "randomize_seed", "size", "num_images_per_prompt")
    return Handlers(service, str(folder), fields)  # type: ignore[arg-type]  # a stand-in: it has what the page uses


def _draw(handlers: Handlers, count: int, seed: int = 7) -> AsyncIterator[tuple[Any, ...]]:
    return handlers.draw(_VISITOR, None, "a cat", seed, False, None, str(count))


async def _looks(views: AsyncIterator[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [view async for view in views]


@pytest.mark.parametrize(
    ("first", "seeds"), [(7, [7, 8, 9, 10]), ("7", [7, 8, 9, 10]), (SEED_MAX, [SEED_MAX, 0, 1, 2])]
)
def test_the_seeds_follow_each_other(first: Any, seeds: list[int]) -> None:
    """The first picture has the seed that was asked for, each of the others the next one; the visitor is the same."""
    service = StandInService()
    assert [job.request.seed for job in _start(service, 4, seed=first).jobs] == seeds
    assert service.visitors == [("ada", "192.0.2.1")] * 4


def test_seeds_that_are_left_to_chance_can_be_had_again() -> None:
    """Without a seed one is chosen for the first, and the others follow it; one alone leaves it to the server."""
    service = StandInService()
    first, *others = (job.request.seed for job in _start(service, 3, seed=None).jobs)
    assert first is not None
    assert others == [(first + 1) % (SEED_MAX + 1), (first + 2) % (SEED_MAX + 1)]
    assert [job.request.seed for job in _start(service, 1, seed=None).jobs] == [None]


@pytest.mark.parametrize(
    ("value", "count"),
    [("1", 1), ("4", 4), (3, 3), ("99", 4), ("-1", 1), (None, 1), ("", 1), ("x", 1), ([], 1), (2.5, 1)],
)
def test_a_count_from_the_page(value: object, count: int) -> None:
    """Whatever is sent in place of a count, one to four pictures are drawn."""
    assert count_of(value) == count


def test_no_more_than_a_visitor_may_have(tmp_path: Path) -> None:
    """Where a visitor may have two under way and asks for four, two are drawn, and why there are no more is told."""
    service = StandInService()
    service.refuse_with, service.refuse_after = BusyError("2 of your pictures are still to be drawn."), 2
    last = asyncio.run(_looks(_draw(_handlers(service, tmp_path), 4)))[-1]
    assert re.fullmatch(
        r"Done in [\d.]+ s\. 2 pictures, seeds 7 to 8\. No more of them at once\. Busy: 2 of your .*", last[_STATUS]
    )
    assert [one["seed"] for one in last[_RECORDS]] == [7, 8]


def test_what_cannot_be_drawn_starts_nothing() -> None:
    """A request that is refused is refused once, and leaves nothing behind."""
    service = StandInService()
    with pytest.raises(InvalidRequestError):
        _start(service, 4, width=63)
    service.hold("drawing")  # else one may be there before it is cancelled
    service.refuse_with, service.refuse_after = RuntimeError("out of hand"), 2  # type: ignore[assignment]
    with pytest.raises(RuntimeError):
        _start(service, 4)
    wait_until("what was begun to end", lambda: all(job.finished for job in service.started))
    assert [type(job.events[-1]) for job in service.started] == [Cancelled, Cancelled]


def test_one_that_fails_takes_no_other_with_it(tmp_path: Path) -> None:
    """When the second of three fails, the others are there with their seeds, and its error is told beside that."""
    service = StandInService()
    service.fail_with, service.fail_seeds = DrawingError("The model could not draw this."), {8}
    last = asyncio.run(_looks(_draw(_handlers(service, tmp_path), 3)))[-1]
    assert last[_STATUS].startswith('2 of 3 pictures are there. <span class="error">')
    assert [(one["seed"], one["set"]["place"]) for one in last[_RECORDS]] == [(7, 0), (9, 2)]
    assert {(one["set"]["id"], one["set"]["of"]) for one in last[_RECORDS]} == {(service.started[0].id, 3)}
    assert [one["set"].get("is_complete", False) for one in last[_RECORDS]] == [False, True]
    assert last[_JOB_ID] != NO_JOB
    assert last[_DRAW]["interactive"]


def test_nothing_that_is_there_is_lost_by_cancel(tmp_path: Path) -> None:
    """Cancel ends all that are still drawn; those that are finished stay, are told, and are found again."""
    service = StandInService()
    handlers = _handlers(service, tmp_path)
    service.hold("drawing")

    async def scene() -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        views, seen = _draw(handlers, 3), []
        async for view in views:
            seen.append(view)
            if len(seen) == 1:
                service.started[0].tell(Picture(picture(service.started[0].request, 7)))
            elif "1 of 3" in view[_STATUS]:
                await handlers.cancel(seen[0][_JOB_ID])
        again = await _looks(handlers.resume(seen[0][_JOB_ID], "", gr.Request(session_hash="later")))
        return seen, again

    seen, again = asyncio.run(scene())
    service.let("drawing")
    for last in (seen[-1], again[-1]):
        assert last[_STATUS] == "Cancelled. 1 of 3 pictures is there."
        assert not last[_CANCEL]["visible"]
    assert [one["seed"] for one in again[-1][_RECORDS]] == [7]


def test_another_visitors_drawing_can_be_watched_and_no_more(tmp_path: Path) -> None:
    """Who has the link alone sees how it goes, with Draw at hand and without a Cancel that would do nothing."""
    service = StandInService()
    service.hold("drawing")
    handlers = _handlers(service, tmp_path)
    job = service.submit("a castle")
    wait_until("it to be drawn", lambda: job.events and isinstance(job.events[-1], Step))

    async def scene(name: str) -> list[tuple[Any, ...]]:
        service.hold("drawing")
        seen = []
        async for view in handlers.resume(name, "", gr.Request(session_hash="watches")):
            seen.append(view)
            service.let("drawing")
        return seen

    watched = asyncio.run(scene(job.id))
    assert all(view[_CANCEL] == gr.skip() for view in watched[:-1])
    assert '<span class="watched">Drawing' in watched[1][_STATUS]
    assert watched[-1][_STATUS].startswith("Done")
    assert "watched" not in watched[-1][_STATUS]
    own = service.submit("a castle")
    first, *_ = asyncio.run(scene(f"{own.id}.{own.cancel_token}"))
    assert first[_CANCEL]["visible"]


def _made(seed: int) -> Picture:
    return Picture(picture(GenerationRequest("a cat"), seed))


@pytest.mark.parametrize(
    ("events", "sentence"),
    [
        ([None, None], "Asking for your picture…"),
        ([Waking("Starting the tunnel"), None], "Starting the tunnel…"),
        ([Queued(3), Queued(2, 20.0)], "You are number 2 in line, about 20 s…"),
        ([Step(5, 20), Queued(1)], "Drawing 2 pictures: step 5 of 40"),
        ([Step(5, 20), Step(7, 20)], "Drawing 2 pictures: step 12 of 40"),
        ([_made(7), Step(7, 20)], "1 of 2 pictures is there. Drawing: step 27 of 40"),
        ([_made(7), Queued(1)], "1 of 2 pictures is there. You are next in line…"),
        ([_made(7), _made(8), _made(9)], "Done in 0.4 s. 3 pictures, seeds 7 to 9."),
        ([_made(7), Cancelled()], "Cancelled. 1 of 2 pictures is there."),
        ([Cancelled(), Cancelled()], "Cancelled. Nothing was drawn."),
        ([Failed(InvalidRequestError("No.")), Failed(InvalidRequestError("No."))], "No."),
        ([Failed(InvalidRequestError("No.")), _made(8)], "1 of 2 pictures is there. No."),
    ],
)
def test_the_sentence_for_several(events: list[Event | None], sentence: str) -> None:
    """One sentence tells of all of them: what comes next, how far they are together, and how many there are."""
    assert re.sub(r"<[^>]*>", "", several_html(events, 0.4)) == sentence


def test_the_first_ones_notes_are_told() -> None:
    """What the model did not read of the prompt is told once for all of them."""
    event = _made(7)
    told = replace(event.generated.receipt, unused_words=("dog",))
    events = [Picture(replace(event.generated, receipt=told)), _made(8)]
    assert several_html(events, 1.0).count("Not used: “dog”") == 1
