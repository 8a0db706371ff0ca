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
from gradio.data_classes import FileData

import demo_model
from drawing.events import Picture
from errors import InvalidRequestError
from page import drawings as page_drawings
from page import start_image
from page import text as page_text
from page import view as page_view
from page.drawings import Drawings, count_of
from page.faults import as_space_error
from page.fitting import fitted_number_field, scheduler_field, size_field
from page.language import Words, words_of
from page.options import limited, offer_html, parse_size, schedulers, shapes, sizes
from page.picture_file import saved
from page.view import View, follow_latest
from page.visitor import page_visitor
from text_to_image import TextToImage

_WATCHED_HTML = '<span class="watched">{}</span>'


class Handlers:
    """The page's handlers, for one service.

    `picture_folder`: where pictures become files. `fields`: what each value that `draw` gets is called, in their order:
    parameters of GenerationRequest, beside them `size` for width and height, `randomize_seed`, and how many pictures,
    `num_images_per_prompt`.
    """

    def __init__(self, service: TextToImage, picture_folder: str, fields: tuple[str, ...]) -> None:
        self._service = service
        self._picture_folder = picture_folder
        self._fields = fields
        self._running: dict[str | None, Drawings] = {}  # what each open page draws, by Gradio's session
        self._have_asked: deque[str | None] = deque(maxlen=1000)  # the newest sessions that asked for a picture

    async def draw(self, request: gr.Request, job_id: str | None, *values: Any) -> AsyncIterator[tuple[Any, ...]]:
        """Draw or Enter was pressed: starts a job and shows how it goes. One at a time for each page.

        `job_id`: what the browser remembers; `values`: what stands in the page's fields.
        """
        session, words = request.session_hash, words_of(request)
        try:
            parameters = await self._parameters(dict(zip(self._fields, values, strict=True)))
        except Exception as error:
            yield View(page_text.error_html(as_space_error(error, "begin to draw"), words)).outputs()
            return
        # What this page started (a second click may overtake the news of the first), or found when it opened. From here
        # to the start nothing is awaited, or that click would pass.
        running = self._running.get(session) or page_drawings.find(self._service, job_id)
        if running is not None and not running.finished:
            gr.Info(words["still_drawing_wait"])
            yield page_view.UNCHANGED
            return
        self._have_asked.append(session)
        try:
            count = count_of(parameters.pop("num_images_per_prompt", 1))
            drawings = page_drawings.start(self._service, parameters, count, page_visitor(request))
        except Exception as error:
            yield View(page_text.error_html(as_space_error(error, "begin to draw"), words)).outputs()
            return
        self._running[session] = drawings
        try:
            asked = page_text.waiting_html(words["asked"], 0.0, words)
            yield View(asked, preview="", busy=True, job_id=drawings.name, words=words).outputs()
            async for view in self._views(drawings, words):
                yield view.outputs()
        finally:
            if self._running.get(session) is drawings:
                del self._running[session]

    async def resume(
        self, job_id: str | None, typed: str | None, request: gr.Request
    ) -> AsyncIterator[tuple[Any, ...]]:
        """The page was opened: shows the drawing that this browser asked for a while ago, if there is one.

        `job_id`: what this browser remembers, or the id in the page's address; `typed`: what stands in the prompt's
        field already; it stays. Once the visitor asks for a picture, this changes nothing on the screen any more.
        """
        found, words = page_drawings.find(self._service, job_id), words_of(request)
        async for view in self._found(found, words) if found else self._nothing_found(job_id, words):
            if request.session_hash in self._have_asked:
                yield page_view.UNCHANGED
                return
            yield (dataclasses.replace(view, prompt=None) if typed else view).outputs()

    async def look_at_image(self, chosen: Any, request: gr.Request) -> tuple[Any, Any]:
        """A picture to start from was chosen: one that cannot be read goes again, and the sentence says why."""
        try:
            await start_image.read(chosen, "image")
        except InvalidRequestError as error:
            return None, page_text.error_html(error, words_of(request))
        return gr.skip(), gr.skip()

    async def cancel(self, job_id: str | None) -> None:
        """Cancel was pressed: ends the drawings. The handler that follows them shows that.

        `job_id`: with the cancel tokens, as the browser remembers it. Who was given a link to a job has no token.
        """
        found = page_drawings.find(self._service, job_id)
        if found is not None and found.may_cancel:
            found.cancel()

    async def options(
        self, request: gr.Request, size: str | None = None, scheduler: str | None = None, *numbers: str
    ) -> tuple[Any, ...]:
        """What the fields offer by now: to the page's scripts, whether a start image and a mask are taken, the
        shapes, the sizes, the schedulers, then every number that has limits (`limited`).

        The values are what stands in them. What the model cannot draw becomes the nearest, and the field says so.
        """
        status, names, words = self._service.status(), limited(self._fields), words_of(request)
        fields = [
            offer_html(status),
            gr.update(visible=status.limits.takes_image),
            gr.update(visible=status.limits.takes_mask),
            gr.update(choices=shapes(status, words)),
            gr.update(choices=sizes(status, words), **size_field(size, status, words)),
            gr.update(choices=schedulers(status, words), **scheduler_field(scheduler, status, words)),
        ]
        for name, value in zip_longest(names, numbers[: len(names)]):
            fields.append(gr.update(**fitted_number_field(name, value, status, words)))
        return tuple(fields)

    async def _found(self, drawings: Drawings, words: Words) -> AsyncIterator[View]:
        """The views of a drawing that was asked for before. One that is another's can be watched, and nothing more."""
        is_own, prompt = drawings.may_cancel, drawings.jobs[0].request.prompt
        finding = page_text.waiting_html(words["finding_again"], 0.0, words)
        yield View(finding, busy=not drawings.finished if is_own else None, prompt=prompt, words=words)
        async for view in self._views(drawings, words):
            is_over = view.busy is False
            yield view if is_own or is_over else dataclasses.replace(view, status=_WATCHED_HTML.format(view.status))

    async def _nothing_found(self, job_id: str | None, words: Words) -> AsyncIterator[View]:
        yield View(page_text.idle(self._service.status(), words), job_id=page_view.NO_JOB if job_id else None)

    async def _views(self, drawings: Drawings, words: Words) -> AsyncIterator[View]:
        """What the page shows of them until all have ended. A fault of the page's own is shown as an error, too."""
        files: dict[str, FileData] = {}
        told: list[dict[str, Any]] | None = None
        note = self._note(drawings.jobs[0].request.prompt, words)
        try:
            async for events in follow_latest(*drawings.jobs):
                for job, event in zip(drawings.jobs, events, strict=True):
                    if isinstance(event, Picture) and job.id not in files:
                        files[job.id] = await saved(event, job, self._picture_folder)
                view = page_view.look(drawings, events, files, note, words)
                yield dataclasses.replace(view, records=None) if view.records == told else view
                told = view.records
        except Exception as error:  # of any kind: without a last view the page would say "Drawing…" for ever
            drawings.cancel()  # nobody sees it any more, and the visitor can draw another one
            yield page_view.ended(page_text.error_html(as_space_error(error, "show the picture"), words), words)

    def _note(self, prompt: str, words: Words) -> str:
        """What to say of a picture that the demo model had to guess."""
        guessed = self._service.status().demo and not demo_model.known_words(prompt)
        return words["no_known_words"] if guessed else ""

    async def _parameters(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The parameters of GenerationRequest, as the page's fields have them.

        Raises: InvalidRequestError for no size, and for no picture to start from.
        """
        width, height = parse_size(fields.pop("size"))
        if fields.pop("randomize_seed"):
            fields["seed"] = None
        limits = self._service.status().limits
        image, mask, strength = (fields.pop(name, None) for name in ("image", "mask_image", "strength"))
        if image and limits.takes_image:  # else a model that takes none has come since, and the fields are hidden
            fields |= {"image": await start_image.read(image, "image"), "strength": strength}
            if mask and limits.takes_mask:
                fields["mask_image"] = await start_image.read(mask, "mask_image")
        return {**fields, "width": width, "height": height}
