"""What happens when a visitor presses Draw or Cancel, opens the page, or when a program calls its endpoint.

A handler starts a job or finds one, and follows it. It is async, holds no thread, and leaves the job alone when the
visitor closes the page.
"""

import asyncio
import dataclasses
import inspect
import logging
import typing
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

import demo_model
from drawing.events import Cancelled, Event, Failed, Picture
from drawing.jobs import Job
from drawing.models import GenerationRequest
from errors import InvalidRequestError, ServiceError, SpaceError
from page import text as page_text
from page import view as page_view
from page.options import limited, number_field, parse_size, shapes, sizes
from page.picture_file import save_picture
from page.view import View, follow_latest
from text_to_image import TextToImage

log = logging.getLogger(__name__)


def _takes_the_parameters(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a handler of `*values` the names, types and defaults of GenerationRequest, which Gradio tells its callers.

    A new field there is a new parameter of the endpoint.
    """
    signature = inspect.signature(handler)
    parameters = inspect.signature(GenerationRequest).parameters.values()
    handler.__annotations__ |= typing.get_type_hints(GenerationRequest)
    handler.__signature__ = signature.replace(parameters=[signature.parameters["self"], *parameters])  # type: ignore[attr-defined]
    return handler


class Handlers:
    """The page's handlers, for one service.

    `picture_folder`: where pictures become files. `fields`: what each value that `draw` gets is called, in their order:
    parameters of GenerationRequest, beside them `size` for width and height, and `randomize_seed`.
    """

    def __init__(self, service: TextToImage, picture_folder: str, fields: tuple[str, ...]) -> None:
        self._service = service
        self._picture_folder = picture_folder
        self._fields = fields
        self._jobs: dict[str | None, Job] = {}  # the running job of each open page, by Gradio's session
        self._have_asked: deque[str | None] = deque(maxlen=1000)  # the newest sessions that asked for a picture

    @_takes_the_parameters
    async def text_to_image(self, *values: Any) -> tuple[FileData, int | None]:
        """Draws the prompt; returns the picture as a PNG file and the seed that it was drawn with.

        Sizes in pixels. What is left out or null is the model's own choice, a seed is then drawn at random. The same
        seed and values give the same picture again.
        """
        job: Job | None = None
        try:
            job = self._service.submit(*values)
            last = await _last_event(job)
            if isinstance(last, Picture):
                return await self._saved(last, job), last.generated.seed
        except SpaceError as error:
            raise _refusal(error) from error
        except asyncio.CancelledError:  # the caller said so; one that merely hangs up is not noticed here
            if job is not None:
                job.cancel()
            raise
        raise _refusal(last.error) if isinstance(last, Failed) else gr.Error("Cancelled.", print_exception=False)

    async def draw(self, request: gr.Request, job_id: str | None, *values: Any) -> AsyncIterator[tuple[Any, ...]]:
        """Draw or Enter was pressed: starts a job and shows how it goes. One at a time for each page.

        `job_id`: what the browser remembers; `values`: what stands in the page's fields.
        """
        session = request.session_hash
        # The job that this page started (a second click may overtake the news of the first), or found when it opened.
        running = self._jobs.get(session) or self._job(job_id)
        if running is not None and not running.finished:
            gr.Info(page_text.STILL_DRAWING)
            yield page_view.UNCHANGED
            return
        self._have_asked.append(session)
        try:
            job = self._service.submit(**_parameters(dict(zip(self._fields, values, strict=True))))
        except Exception as error:
            yield View(page_text.error_html(_as_space_error(error, "begin to draw"))).outputs()
            return
        self._jobs[session] = job
        try:
            asked = page_text.waiting_html(page_text.ASKED, 0.0)
            yield View(asked, preview="", busy=True, job_id=job.id).outputs()
            async for view in self._views(job):
                yield view.outputs()
        finally:
            if self._jobs.get(session) is job:
                del self._jobs[session]

    async def resume(
        self, job_id: str | None, typed: str | None, request: gr.Request
    ) -> AsyncIterator[tuple[Any, ...]]:
        """The page was opened: shows the drawing that this browser asked for a while ago, if there is one.

        `typed`: what stands in the prompt's field already; it stays. Once the visitor asks for a picture, this changes
        nothing on the screen any more.
        """
        job = self._job(job_id)
        async for view in self._found(job) if job else self._nothing_found(job_id):
            if request.session_hash in self._have_asked:
                yield page_view.UNCHANGED
                return
            yield (dataclasses.replace(view, prompt=None) if typed else view).outputs()

    async def cancel(self, job_id: str | None) -> None:
        """Cancel was pressed: ends the job. The handler that follows it shows that."""
        job = self._job(job_id)
        if job is not None:
            job.cancel()

    async def options(self) -> tuple[Any, ...]:
        """What the fields offer by now: the shapes, the sizes, then every number that has limits (`limited`)."""
        status = self._service.status()
        numbers = (gr.update(**number_field(status, name)) for name in limited(self._fields))
        return gr.update(choices=shapes(status)), gr.update(choices=sizes(status)), *numbers

    def _job(self, job_id: object) -> Job | None:
        return self._service.job(job_id) if isinstance(job_id, str) and job_id else None

    async def _found(self, job: Job) -> AsyncIterator[View]:
        yield View("Finding your picture again…", busy=not job.finished, prompt=job.request.prompt)
        async for view in self._views(job):
            yield view

    async def _nothing_found(self, job_id: str | None) -> AsyncIterator[View]:
        yield View(page_text.idle(self._service.status()), job_id=page_view.NO_JOB if job_id else None)

    async def _views(self, job: Job) -> AsyncIterator[View]:
        """What the page shows of a job until it has ended. A fault of the page's own is shown as an error, too."""
        event: Event | None = None
        try:
            async for news in follow_latest(job):
                event = news or event
                if isinstance(event, Picture):
                    picture = await self._saved(event, job)
                    yield page_view.finished(event, job, picture, self._note(job.request.prompt))
                elif isinstance(event, Failed | Cancelled):
                    yield page_view.ended(page_text.event_html(event, job.elapsed_s))
                else:
                    yield page_view.in_progress(event, job.elapsed_s)
        except Exception as error:  # of any kind: without a last view the page would say "Drawing…" for ever
            job.cancel()  # nobody sees it any more, and the visitor can draw another one
            yield page_view.ended(page_text.error_html(_as_space_error(error, "show the picture")))

    async def _saved(self, picture: Picture, job: Job) -> FileData:
        """The finished picture as a file that the browser may fetch.

        Raises: ServiceError when it cannot be written, on a full disk for instance.
        """
        try:
            return await asyncio.to_thread(save_picture, picture.generated, job.request, self._picture_folder)
        except Exception as error:
            raise _as_space_error(error, "keep the picture as a file") from error

    def _note(self, prompt: str) -> str:
        """What to say of a picture that the demo model had to guess."""
        guessed = self._service.status().demo and not demo_model.known_words(prompt)
        return page_text.NO_KNOWN_WORDS if guessed else ""


def _parameters(fields: dict[str, Any]) -> dict[str, Any]:
    """The parameters of GenerationRequest, as the page's fields have them. Raises: InvalidRequestError for no size."""
    width, height = parse_size(fields.pop("size"))
    if fields.pop("randomize_seed"):
        fields["seed"] = None
    return {**fields, "width": width, "height": height}


async def _last_event(job: Job) -> Event:
    """The event that the job ends with, once it is there."""
    last: Event | None = None
    async for event in job.follow():
        last = event
    if last is None:
        raise RuntimeError("the job ended without an event")
    return last


def _refusal(error: SpaceError) -> gr.Error:
    title = "This cannot be drawn" if isinstance(error, InvalidRequestError) else "No picture"
    return gr.Error(page_text.error_text(error), title=title, print_exception=False)


def _as_space_error(error: Exception, tried: str) -> SpaceError:
    """The error as one that visitors can read. An unexpected one is our fault: the log gets it with its traceback.

    `tried`: what the page was doing, as in "tried to ...".
    """
    if isinstance(error, SpaceError):
        return error
    log.error("could not %s", tried, exc_info=error)
    return ServiceError(
        "This page",
        tried=tried,
        came_back=f"an unexpected {type(error).__name__} was raised",
        next_step="Please try again; the maintainer finds the details in the log.",
    )
