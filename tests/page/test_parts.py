"""The page's parts on their own: following a job, the words, the fields of "More", the files."""

import asyncio
import contextlib
import dataclasses
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from drawing.events import Cancelled, Event, Failed, Picture, Queued, Step, Waking
from drawing.models import Defaults, GeneratedImage, GenerationRequest, Limits, Range, Receipt
from drawing.status import BackendStatus
from errors import (
    Absence,
    AwayError,
    BusyError,
    DrawingError,
    EndpointUnreachableError,
    EndpointUntrustedError,
    FairError,
    InvalidRequestError,
    ServiceError,
    SettingsError,
    SpaceError,
)
from page import absence as page_absence
from page import text as page_text
from page.handlers import Handlers
from page.options import parse_size, sizes
from page.picture_file import file_name, png_bytes, preview_html
from page.view import UNCHANGED, View, follow_latest
from tests.support.page_service import STEPS, StandInService, picture, small_preview
from tests.support.processes import wait_until


def test_following_skips_to_the_newest_and_ends_with_the_last() -> None:
    """A slow reader sees fewer events but never lags, and the last event is always the picture."""
    service = StandInService()
    service.hold("waking")
    service.hold("done")
    job = service.submit("a cat")
    wait_until("the job to begin", lambda: job.events)

    async def scene() -> list[Event]:
        seen: list[Event] = []
        async for (event,) in follow_latest(job):
            seen += [event] if event and event not in seen else []
            if len(seen) == 1:  # while the reader is at the first event, all steps are told
                service.let("waking")
                await asyncio.to_thread(wait_until, "the last step", lambda: _is_step(job.events[-1], STEPS))
            elif _is_step(event, STEPS):
                service.let("done")
        return seen

    seen = asyncio.run(scene())
    assert isinstance(seen[0], Waking)
    assert isinstance(seen[-1], Picture)
    assert _is_step(seen[-2], STEPS)
    assert len(seen) <= 5


def _is_step(event: Event | None, number: int) -> bool:
    return isinstance(event, Step) and event.step == number


def test_following_shows_a_sign_of_life() -> None:
    """While nothing happens, there is still a turn now and then, in which a visitor's leaving can be noticed."""
    service = StandInService()
    service.hold("waking")
    job = service.submit("a cat")
    wait_until("the job to begin", lambda: job.events)  # else the first turn may be a sign of life

    async def scene() -> list[Event | None]:
        seen: list[Event | None] = []
        async for (event,) in follow_latest(job, at_least_every_s=0.05):
            seen.append(event)
            if len(seen) == 3:  # all of the same event
                service.let("waking")
        return seen

    seen = asyncio.run(scene())
    assert isinstance(seen[0], Waking)
    assert seen[:3] == [seen[0]] * 3
    assert isinstance(seen[-1], Picture)


def test_a_follower_that_stops_leaves_the_job_alone() -> None:
    """A follower that goes away early changes nothing for the job."""
    service = StandInService()
    service.hold("queued")
    job = service.submit("a cat")

    async def scene() -> None:
        async for _ in follow_latest(job):
            break

    asyncio.run(scene())
    service.let("queued")
    assert job.result(timeout_s=60).seed == 42


_DRAWING = picture(GenerationRequest("a cat"), 42)


@pytest.mark.parametrize(
    ("event", "elapsed_s", "sentence"),
    [
        (Waking("Starting the tunnel."), 0.4, "Starting the tunnel…"),
        (Waking("Starting"), 12.4, 'Starting…<span class="seconds" aria-hidden="true"> · 12 s</span>'),
        (Queued(3), 0.4, "You are number 3 in line…"),
        (Queued(3, 20.0), 0.4, "You are number 3 in line, about 20 s…"),
        (Queued(1, 180.0), 0.4, "You are next in line, about 3 min…"),
        (Queued(1), 0.4, "You are next in line…"),
        (Step(8, 20), 3.0, 'Drawing<span aria-hidden="true" data-step="8" data-steps="20">: step 8 of 20</span>'),
        (Picture(_DRAWING), 1.24, "Done in 1.2 s, seed 42"),
        (Cancelled(), 1.0, "Cancelled. Nothing was drawn."),
    ],
)
def test_the_living_sentence(event: Event, elapsed_s: float, sentence: str) -> None:
    """Each kind of event has one sentence; numbers that change all the time are kept from screen readers."""
    assert page_text.event_html(event, elapsed_s) == sentence


def test_what_was_served_instead_is_told() -> None:
    """A lenient server's substitutions stand beside the picture."""
    drawing = GeneratedImage(_DRAWING.image, b"", "PNG", 7, Receipt(substituted=("DDIM in place of DEIS",)))
    assert page_text.event_html(Picture(drawing), 2.0) == "Done in 2.0 s, seed 7. DDIM in place of DEIS."


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("sea",), "Not used: “sea”."),
        (tuple("abcdefghijkl"), "Not used: “a b c d e f g h i j k l”."),
        (tuple("abcdefghijklm"), "Not used: “a b c d e f g h i j k l” and 1 more word."),
        (tuple("abcdefghijklmn"), "Not used: “a b c d e f g h i j k l” and 2 more words."),
        (("<b>", "x" * 2000), f"Not used: “&lt;b&gt; {'x' * 40}…”."),
    ],
)
def test_words_that_the_model_did_not_read_are_told(words: tuple[str, ...], told: str) -> None:
    """Below the picture's sentence stand the first twelve words that were not used, escaped, and how many more."""
    drawing = GeneratedImage(_DRAWING.image, b"", "PNG", 7, Receipt(unused_words=words))
    sentence, _, line = page_text.event_html(Picture(drawing), 2.0).partition("<p")
    assert sentence == "Done in 2.0 s, seed 7"
    assert line.endswith(f"{told}</p>")


def test_nothing_from_outside_becomes_html() -> None:
    """Stages and errors are escaped."""
    assert "<b>" not in page_text.event_html(Waking("<b>"), 0.4)
    error = FairError(tried="<b>log in", came_back="<b>401", next_step="<b>look")
    assert "<b>" not in page_text.event_html(Failed(error), 0.4)


def test_errors_speak_to_the_visitor_first() -> None:
    """A broken chain is told in a visitor's words, with the maintainer's details set apart; a refusal as it is."""
    html = page_text.error_html(_failed(EndpointUnreachableError, how="refused"))
    assert html.startswith('<span class="error">The machine that draws cannot be reached right now. Please try again')
    assert "<details>" in html
    assert "Look at it." in html.partition("<details>")[2]
    assert page_text.error_html(InvalidRequestError("No.")) == '<span class="error">No.</span>'


def _failed(kind: type[ServiceError], **more: Any) -> ServiceError:
    return kind("Tunnel", tried="reach it", came_back="x", next_step="Look at it.", **more)


@pytest.mark.parametrize("error", [SettingsError("Set ENDPOINT_SECRET."), _failed(EndpointUntrustedError)])
def test_nobody_is_asked_to_try_again_where_that_is_of_no_use(error: SpaceError) -> None:
    """What only the maintainer can mend is told to be so."""
    told = page_text.error_html(error).partition("<details>")[0]
    assert "the maintainer has to mend this" in told
    assert "Please try again" not in told


def test_what_the_model_could_not_draw_is_told_with_a_next_step() -> None:
    """A drawing that failed in the model is told in one sentence with a way out, the model's own words set apart; what
    the safety checker hid is told as it is.
    """
    words = "The inference server could not draw this: The model could not draw this: out of memory (PIPELINE_ERROR)."
    told, _, details = page_text.error_html(DrawingError(words, code="PIPELINE_ERROR")).partition("<details>")
    assert told == '<span class="error">This picture could not be drawn. Try other words or a smaller size.</span>'
    assert "out of memory" in details
    hidden = page_text.error_html(DrawingError("Hidden. Try other words.", code="NSFW_CONTENT_DETECTED"))
    assert hidden == '<span class="error">Hidden. Try other words.</span>'


def _status(kind: str, demo: bool, tunnel: bool) -> BackendStatus:
    return BackendStatus(kind, demo, tunnel, False, None, Limits(), Defaults())  # type: ignore[arg-type]


def test_a_machine_that_is_off_is_told_before_and_after_a_prompt() -> None:
    """Somebody who stands in sketches, whatever its model; without one, the owner has to start the machine."""
    away = dataclasses.replace(_status("workers", False, False), away=True)
    told_away, told_sketching = page_absence.away_html(Absence()), page_absence.sketching_html(Absence())
    assert page_text.idle(away) == told_away
    assert page_text.idle(dataclasses.replace(away, stand_in=True)) == told_sketching
    told = page_text.error_html(_failed(AwayError)).partition("<details>")[0]
    assert told == f'<span class="error">{told_away}</span>'


def test_the_notice_says_where_pictures_come_from() -> None:
    """The demo says what it is, and a real GPU needs no notice; how to connect one is the owner's, further down."""
    demo = page_text.notice_html(_status("local", True, False))
    assert "tiny model" in demo
    assert "<details" not in demo
    assert page_text.notice_html(_status("local", True, True)) == demo
    assert page_text.notice_html(_status("fair", False, True)) == ""
    assert page_text.notice_html(_status("endpoint", False, False)) == ""


def test_sizes_lie_within_the_limits() -> None:
    """Every size on offer can be drawn, not only square ones, and the first is the model's own."""
    side = Range(min=64, max=256, multiple=64)
    limits, defaults = Limits(width=side, height=side), Defaults(width=256, height=256)
    first, *others = sizes(BackendStatus("local", True, False, True, None, limits, defaults))
    assert first == ("The model's own (256 × 256)", "")  # noqa: RUF001
    offered = [parse_size(value) for _, value in others]
    assert (192, 256) in offered
    assert (256, 256) not in offered
    assert all(64 <= pixels <= 256 and pixels % 64 == 0 for size in offered for pixels in size if pixels)


@pytest.mark.parametrize(
    "value", ["512", " " * 400_000 + "1x1" + " " * 400_000 + "p", "x512", "512x", "axb", "-1x64", "1x2x3", "²x2"]
)
def test_a_size_that_is_none_is_refused(value: str) -> None:
    """Only width x height in pixels is a size."""
    with pytest.raises(InvalidRequestError, match="such as 512x512"):
        parse_size(value)


def test_file_names() -> None:
    """A picture is named after its prompt and seed, whatever the prompt holds."""
    assert file_name("A red apple!", 42) == "a-red-apple-42.png"
    assert file_name("../../etc/passwd", None) == "etc-passwd.png"
    assert file_name("☃", 1) == "picture-1.png"
    assert len(file_name("x" * 2000, 1)) < 60


def test_another_format_becomes_a_png_that_says_how_it_was_made() -> None:
    """A picture that came as WebP is downloaded as PNG, with its prompt and seed as text."""
    encoded = io.BytesIO()
    _DRAWING.image.save(encoded, "WEBP", lossless=True)
    drawing = GeneratedImage(_DRAWING.image, encoded.getvalue(), "WEBP", 42, Receipt())
    with Image.open(io.BytesIO(png_bytes(drawing, GenerationRequest("ein Bär")))) as image:
        assert (image.format, image.info["prompt"], image.info["seed"]) == ("PNG", "ein Bär", "42")


def test_previews_are_small_pictures_or_nothing() -> None:
    """A preview stands in the page itself; what is no small picture is left out."""
    assert preview_html(small_preview(3)).startswith('<img src="data:image/jpeg;base64,')
    assert preview_html(b"<script>") == ""
    assert preview_html(b"\x89PNG" + bytes(300_000)) == ""


def test_a_view_fills_every_output() -> None:
    """However little a view changes, each of the page's outputs gets a value."""
    assert len(View("x", preview="", busy=True, seed=1, job_id="j", prompt="p").outputs()) == len(UNCHANGED)


def _handlers(service: StandInService, folder: Path) -> Handlers:
    fields = ("prompt", "randomize_seed", "size", "num_images_per_prompt")
    return Handlers(service, str(folder), fields)  # type: ignore[arg-type]  # a stand-in: it has what the page uses


def _draw(handlers: Handlers, prompt: str, visitor: gr.Request, count: str = "1") -> AsyncIterator[tuple[Any, ...]]:
    return handlers.draw(visitor, None, prompt, True, None, count)


def test_the_news_of_an_opened_page_comes_too_late_for_a_quick_visitor(tmp_path: Path) -> None:
    """Who was refused before the page's first news came goes on reading why; on any other page the news is shown."""
    service = StandInService()
    service.refuse_with = BusyError("500 drawings are under way.")
    handlers = _handlers(service, tmp_path)

    async def scene() -> tuple[str, object, object]:
        quick, slow = gr.Request(session_hash="quick"), gr.Request(session_hash="slow")
        asked = [view async for view in _draw(handlers, "an owl", quick)]
        late = [view async for view in handlers.resume(None, "an owl", quick)]
        other = [view async for view in handlers.resume(None, "", slow)]
        return asked[-1][0], late, other[-1][0]

    refusal, late, other = asyncio.run(scene())
    assert "Busy: 500 drawings are under way." in refusal
    assert late == [UNCHANGED]
    assert other == page_text.idle(service.status())


def test_an_older_picture_leaves_a_new_drawing_alone(tmp_path: Path) -> None:
    """A visitor who asks for a picture while the page still fetches the last one sees nothing more of that one."""
    service = StandInService()
    handlers = _handlers(service, tmp_path)
    old = service.submit("a castle")
    old.result(timeout_s=60)
    service.hold("drawing")
    visitor = gr.Request(session_hash="quick")

    async def scene() -> tuple[str, list[tuple[Any, ...]]]:
        found = handlers.resume(old.id, "", visitor)
        first = await anext(found)
        async with contextlib.aclosing(_draw(handlers, "an owl", visitor)) as drawing:  # type: ignore[type-var]
            await anext(drawing)
            late = [view async for view in found]
        return first[0], late

    first, late = asyncio.run(scene())
    service.let("drawing")
    assert "Finding your picture again" in first
    assert late == [UNCHANGED]


@pytest.mark.parametrize(("typed", "shown"), [("", "a castle"), (None, "a castle"), ("a ho", gr.skip())])
def test_a_found_drawing_leaves_what_is_typed_alone(tmp_path: Path, typed: str | None, shown: object) -> None:
    """The prompt of a drawing that was found again stands in its field unless the visitor has begun to type there."""
    service = StandInService()
    job = service.submit("a castle")
    job.result(timeout_s=60)

    async def scene() -> list[object]:
        found = _handlers(service, tmp_path).resume(job.id, typed, gr.Request(session_hash="s"))
        return [view[-2] async for view in found]  # the prompt comes before the record

    assert asyncio.run(scene())[0] == shown


def test_a_picture_that_cannot_be_kept_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the disk takes no file, the visitor is told, Draw can be pressed again, and the log has the traceback."""
    service = StandInService()
    (tmp_path / "no-folder").touch()
    handlers = _handlers(service, tmp_path / "no-folder")

    async def scene() -> list[tuple[Any, ...]]:
        drawn = [view async for view in _draw(handlers, "an owl", gr.Request(session_hash="draws"))]
        found = handlers.resume(service.started[-1].id, "", gr.Request(session_hash="comes back"))
        return [drawn[-1], [view async for view in found][-1]]

    for status, _, draw, cancel, *_ in asyncio.run(scene()):
        assert "Something went wrong on our side." in status
        assert "tried to keep the picture as a file" in status
        assert draw["interactive"]
        assert not cancel["visible"]
    assert "could not keep the picture as a file" in caplog.text
    assert "Traceback" in caplog.text


def test_an_unexpected_fault_leaves_no_drawing_behind(tmp_path: Path) -> None:
    """When a drawing can no longer be shown, it is ended, so that the visitor can ask for another one."""
    service = StandInService()
    service.hold("drawing")
    handlers = _handlers(service, tmp_path)

    async def scene() -> tuple[Any, ...]:
        views = _draw(handlers, "an owl", gr.Request(session_hash="draws"))
        await anext(views)
        job = service.started[-1]
        job.follow = None  # type: ignore[method-assign,assignment]  # whatever may break inside
        return [view async for view in views][-1]

    status, _, draw, *_ = asyncio.run(scene())
    assert "Something went wrong on our side." in status
    assert draw["interactive"]
    assert service.started[-1].finished
