"""The page: a prompt becomes a picture. `python app.py` starts it, `create_page(service)` builds it.

Handlers do nothing but follow a job: they are async, hold no thread, and leave the job alone when the page is closed.
"""

import asyncio
import logging
import os
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from drawing.events import Failed, Picture
from drawing.jobs import Job
from drawing.log_context import configure_logging
from drawing.models import SEED_MAX
from errors import InvalidRequestError, SettingsError, SpaceError
from page import text as page_text
from page import view as page_view
from page.follow import last_event
from page.options import Options, parse_size
from page.serve import API_NAME, Page, launch
from page.show import Show, as_space_error
from page.view import View
from text_to_image import TextToImage, default_service

log = logging.getLogger(__name__)

_CACHE_CHECK_AND_AGE_S = (600, 3600)
_CLOSE_S = 10.0


class Handlers:
    """What happens on the page's events, for one service."""

    def __init__(self, service: TextToImage, picture_folder: str) -> None:
        self._service = service
        self._show = Show(service, picture_folder)
        self._asked: dict[str, Job] = {}  # the drawing of each open page, by Gradio's session
        self._have_asked: deque[str | None] = deque(maxlen=1000)  # the newest sessions that asked for a picture

    async def text_to_image(
        self,
        prompt: str,
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | None = None,
    ) -> tuple[FileData, int | None]:
        """Draws the prompt; returns the picture as a PNG file and the seed that it was drawn with.

        Sizes in pixels. What is left out or null is the model's own choice, a seed is then drawn at random. The same
        seed and values give the same picture again.
        """
        job: Job | None = None
        try:
            job = self._service.submit(
                prompt, negative_prompt, height, width, num_inference_steps, guidance_scale, seed
            )
            last = await last_event(job)
            if isinstance(last, Picture):
                return await self._show.saved(last, job), last.drawing.seed
        except SpaceError as error:
            raise _refusal(error) from error
        except asyncio.CancelledError:  # the caller said so; one that merely hangs up is not noticed here
            if job is not None:
                job.cancel()
            raise
        raise _refusal(last.error) if isinstance(last, Failed) else gr.Error("Cancelled.", print_exception=False)

    async def draw(
        self,
        prompt: str,
        negative_prompt: str,
        seed: float | None,
        randomize: bool,
        steps: str,
        guidance: str,
        size: str | None,
        job_id: str | None,
        request: gr.Request,
    ) -> AsyncIterator[tuple[Any, ...]]:
        """Draw or Enter was pressed: starts a job and shows how it goes. One at a time for each page."""
        # What this page asked for (a second click may overtake the news of the first), or found when it was opened.
        running = self._asked.get(request.session_hash) or self._job(job_id)
        if running is not None and not running.finished:
            gr.Info(page_text.STILL_DRAWING)
            yield page_view.UNCHANGED
            return
        self._have_asked.append(request.session_hash)
        try:
            width, height = parse_size(size)
            job = self._service.submit(
                prompt, negative_prompt, height, width, steps, guidance, None if randomize else seed
            )
        except Exception as error:
            yield View(page_text.error_html(as_space_error(error, "begin to draw"))).outputs()
            return
        self._asked[request.session_hash] = job
        try:
            asked = page_text.waiting_html(page_text.ASKED, 0.0)
            yield View(asked, preview="", busy=True, job_id=job.id).outputs()
            async for view in self._show.looks(job):
                yield view.outputs()
        finally:
            if self._asked.get(request.session_hash) is job:
                del self._asked[request.session_hash]

    async def resume(
        self, job_id: str | None, typed: str | None, request: gr.Request
    ) -> AsyncIterator[tuple[Any, ...]]:
        """The page was opened: shows the drawing that this browser asked for a while ago, if there is one.

        `typed`: what stands in the prompt's field already; it stays. A visitor who asks for a picture meanwhile has
        overtaken this: from then on nothing on the screen is touched.
        """
        job = self._job(job_id)
        async for view in self._found(job) if job else self._nothing_found(job_id):
            if request.session_hash in self._have_asked:
                yield page_view.UNCHANGED
                return
            yield (replace(view, prompt=None) if typed else view).outputs()

    async def cancel(self, job_id: str | None) -> None:
        """Cancel was pressed; whoever follows the job says so."""
        job = self._job(job_id)
        if job is not None:
            job.cancel()

    async def options(self) -> tuple[Any, ...]:
        """The fields of "More": steps, guidance, size, as the server's limits are known by now."""
        status = self._service.status()
        options = Options.from_server(status.limits, status.defaults)
        return (
            gr.update(**page_text.steps_field(options)),
            gr.update(**page_text.guidance_field(options)),
            gr.update(choices=list(options.sizes)),
        )

    def _job(self, job_id: object) -> Job | None:
        return self._service.job(job_id) if isinstance(job_id, str) and job_id else None

    async def _found(self, job: Job) -> AsyncIterator[View]:
        yield View("Finding your picture again…", busy=not job.finished, prompt=job.request.prompt)
        async for view in self._show.looks(job):
            yield view

    async def _nothing_found(self, job_id: str | None) -> AsyncIterator[View]:
        yield View(page_text.idle(self._service.status()), job_id=page_view.NO_JOB if job_id else None)


def _refusal(error: SpaceError) -> gr.Error:
    title = "This cannot be drawn" if isinstance(error, InvalidRequestError) else "No picture"
    return gr.Error(page_text.error_text(error), title=title, print_exception=False)


def create_page(service: TextToImage) -> gr.Blocks:
    """The whole page for one service; serve it with `page_server.launch`."""
    status = service.status()
    options = Options.from_server(status.limits, status.defaults)
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

    with Page(title=page_text.TITLE, analytics_enabled=False, delete_cache=_CACHE_CHECK_AND_AGE_S) as page:
        job_id = gr.BrowserState("", storage_key="text-to-image-job", secret="text-to-image")  # noqa: S106  hides nothing
        with gr.Column(elem_id="page"):
            gr.HTML(page_text.HEADER_HTML, elem_id="header")
            gr.HTML(page_text.notice_html(status), elem_id="notice", visible=bool(page_text.notice_html(status)))
            with gr.Column(elem_id="ask"):
                prompt_box = gr.Textbox(
                    label=page_text.PROMPT_LABEL,
                    placeholder="a red apple",
                    lines=1,
                    max_lines=3,
                    elem_id="prompt",
                    html_attributes=gr.InputHTMLAttributes(enterkeyhint="go"),  # what a phone's Enter says
                )
                with gr.Row(elem_id="actions"):
                    draw_button = gr.Button("Draw", variant="primary", elem_id="draw", scale=3, min_width=120)
                    cancel_button = gr.Button("Cancel", visible=False, elem_id="cancel", scale=1, min_width=90)
                status_line = gr.HTML(page_text.idle(status), elem_id="status", html_template=page_text.STATUS_TEMPLATE)
            with gr.Column(elem_id="picture"):
                result_image = gr.Image(
                    label="Your picture",
                    show_label=False,
                    format="png",
                    type="filepath",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    elem_id="result",
                )
                preview = gr.HTML("", elem_id="preview")
            with gr.Column(elem_id="extras"):
                gr.Examples(
                    list(page_text.DEMO_EXAMPLES if status.demo else page_text.EXAMPLES),
                    inputs=prompt_box,
                    label=page_text.EXAMPLES_LABEL,
                    elem_id="examples",
                    api_visibility="private",
                )
                # Gradio mounts what is in a closed accordion when it is first opened, and until then no seed can be
                # shown in it: so it starts open, out of sight, and is closed when the page has loaded.
                with gr.Accordion("More", open=True, elem_id="more", elem_classes=["starting"]) as more_fields:
                    negative_box = gr.Textbox(
                        label="Negative prompt", info="What should not be in the picture", lines=1, max_lines=3
                    )
                    with gr.Row():
                        seed_number = gr.Number(0, label="Seed", info=f"0 to {SEED_MAX}", precision=0, elem_id="seed")
                        randomize_box = gr.Checkbox(True, label="Another seed each time")
                    with gr.Row():  # texts: an empty gr.Number becomes 0, and empty is to mean the model's own choice
                        steps_box = gr.Textbox(label="Steps", max_lines=1, **page_text.steps_field(options))
                        guidance_box = gr.Textbox(label="Guidance", max_lines=1, **page_text.guidance_field(options))
                    size_choice = gr.Dropdown(
                        list(options.sizes), value="", label="Size in pixels", filterable=False, elem_id="size"
                    )

        handlers = Handlers(service, picture_folder=result_image.GRADIO_CACHE)
        screen = [status_line, preview, draw_button, cancel_button, result_image, seed_number, job_id, prompt_box]
        more = [negative_box, seed_number, randomize_box, steps_box, guidance_box, size_choice]
        limited = [steps_box, guidance_box, size_choice]

        # Raw values both ways (no pre- and postprocessing): checks are the service's, and no thread is needed for them.
        raw: dict[str, Any] = {"preprocess": False, "postprocess": False, "concurrency_limit": None}
        drawn = gr.on(
            [draw_button.click, prompt_box.submit],
            handlers.draw,
            [prompt_box, *more, job_id],
            screen,
            trigger_mode="multiple",  # `draw` refuses a second one itself: Gradio would ignore it without a word
            **raw,
            **private,
        )
        # Not in the queue: the end of what is in it closes the page's stream of news where nothing else is known to be
        # asked for, and with a Draw on its way just then the page would wait for ever.
        drawn.then(handlers.options, None, limited, queue=False, **raw, **private)
        # By typing alone: the page's own update of the number is no `input`. In the browser, without asking the server.
        seed_number.input(None, None, randomize_box, js="() => false")
        cancel_button.click(handlers.cancel, job_id, None, queue=False, **raw, **private)
        page.load(handlers.resume, [job_id, prompt_box], screen, **raw, **private)
        page.load(handlers.options, None, limited, queue=False, **raw, **private)
        page.load(lambda: gr.update(open=False, elem_classes=[]), None, more_fields, queue=False, **raw, **private)
        gr.api(handlers.text_to_image, api_name=API_NAME, concurrency_limit=None)
    return page


def main() -> int:
    """Serves the page until SIGTERM or SIGINT; returns the exit code: 0, or 2 for a wrong setting."""
    configure_logging()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        service = default_service()
    except SettingsError as error:
        print(f"A setting is missing or wrong. {error}", file=sys.stderr)
        return 2
    # Pictures are gone with the process: in a folder of its own, which nobody else on this machine can read.
    with tempfile.TemporaryDirectory(prefix="text-to-image-", ignore_cleanup_errors=True) as folder:
        os.environ.setdefault("GRADIO_TEMP_DIR", folder)
        try:
            print(f"The page is at {launch(create_page(service))}", flush=True)
            while not stop.wait(0.5):  # a signal that reaches another thread does not wake this one: it has to look
                pass
        except OSError as error:
            print(f"The page could not be served, does another program listen there? {error}", file=sys.stderr)
            return 1
        finally:
            _close(service)
    return 0


def _close(service: TextToImage) -> None:
    """Ends what this process started, within `_CLOSE_S`: what is left then ends because this process does."""
    closing = threading.Thread(target=service.close, name="closing", daemon=True)
    closing.start()
    closing.join(_CLOSE_S)
    if closing.is_alive():
        log.warning("the services had not ended after %g s; they end with this process", _CLOSE_S)


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # visitors may still be connected, and Gradio would wait seconds for them to leave
