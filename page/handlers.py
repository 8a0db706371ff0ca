"""What happens when a visitor presses Draw or Cancel, or opens the page. What programs call is in page/api.py.

A handler starts a job or finds one, and follows it. It is async, holds no thread, and leaves the job alone when the
visitor closes the page.
"""

import dataclasses
from collections import deque
from collections.abc import AsyncIterator
from itertools import zip_longest
from typing import Any

import gradio as gr

import demo_model
from drawing.events import Cancelled, Event, Failed, Picture
from drawing.jobs import Job
from page import text as page_text
from page import view as page_view
from page.faults import as_space_error
from page.fitting import fitted_number_field, size_field
from page.options import limited, parse_size, shapes, sizes
from page.picture_file import saved
from page.view import View, follow_latest
from page.visitor import page_visitor
from text_to_image import TextToImage

_TOKEN_FOLLOWS = "."  # noqa: S105  neither an id nor a token has one


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
            visitor = page_visitor(request)
            parameters = _parameters(dict(zip(self._fields, values, strict=True)))
            job = self._service.submit(**parameters, visitor=visitor.name, address=visitor.address, nearest=True)
        except Exception as error:
            yield View(page_text.error_html(as_space_error(error, "begin to draw"))).outputs()
            return
        self._jobs[session] = job
        try:
            asked = page_text.waiting_html(page_text.ASKED, 0.0)
            yield View(asked, preview="", busy=True, job_id=f"{job.id}{_TOKEN_FOLLOWS}{job.cancel_token}").outputs()
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
        """Cancel was pressed: ends the job. The handler that follows it shows that.

        `job_id`: with its cancel token, as the browser remembers it. Who was given a link to the job has no token.
        """
        job = self._job(job_id)
        if job is not None and job.may_cancel(str(job_id).partition(_TOKEN_FOLLOWS)[2]):
            job.cancel()

    async def options(self, size: str | None = None, *numbers: str | None) -> tuple[Any, ...]:
        """What the fields offer by now: the shapes, the sizes, then every number that has limits (`limited`).

        `size`, `numbers`: what stands in them. What the model cannot draw becomes the nearest, and the field says so.
        """
        status, names = self._service.status(), limited(self._fields)
        fields = [gr.update(choices=shapes(status)), gr.update(choices=sizes(status), **size_field(size, status))]
        for name, value in zip_longest(names, numbers[: len(names)]):
            fields.append(gr.update(**fitted_number_field(name, value, status)))
        return tuple(fields)

    def _job(self, job_id: object) -> Job | None:
        """The job of an id, with or without its cancel token."""
        name = job_id.partition(_TOKEN_FOLLOWS)[0] if isinstance(job_id, str) else ""
        return self._service.job(name) if name else None

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
                    picture = await saved(event, job, self._picture_folder)
                    yield page_view.finished(event, job, picture, self._note(job.request.prompt))
                elif isinstance(event, Failed | Cancelled):
                    yield page_view.ended(page_text.event_html(event, job.elapsed_s))
                else:
                    yield page_view.in_progress(event, job.elapsed_s)
        except Exception as error:  # of any kind: without a last view the page would say "Drawing…" for ever
            job.cancel()  # nobody sees it any more, and the visitor can draw another one
            yield page_view.ended(page_text.error_html(as_space_error(error, "show the picture")))

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
