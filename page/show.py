"""A job as the page shows it: one look after the other, down to its picture, its error or a fault of the page's own."""

import asyncio
import logging
from collections.abc import AsyncIterator

from gradio.data_classes import FileData

import demo_model
from drawing.events import Cancelled, Failed, Picture
from drawing.jobs import Job
from errors import ServiceError, SpaceError
from page import text as page_text
from page import view as page_view
from page.follow import follow_latest
from page.picture_file import save_picture
from page.view import View
from text_to_image import TextToImage

log = logging.getLogger(__name__)


class Show:
    """Shows the jobs of one service; their pictures become files below `picture_folder`."""

    def __init__(self, service: TextToImage, picture_folder: str) -> None:
        self._service = service
        self._picture_folder = picture_folder

    async def looks(self, job: Job) -> AsyncIterator[View]:
        """Every look of the page until the job has ended. A fault of the page's own is shown as an error, too."""
        try:
            async for view in self._followed(job):
                yield view
        except Exception as error:  # whatever it is: without a last look the page would say "Drawing…" for ever
            job.cancel()  # nobody sees it any more, and the visitor is to draw another one
            yield page_view.failed(as_space_error(error, "show the picture"))

    async def saved(self, picture: Picture, job: Job) -> FileData:
        """The finished picture as a file that the browser may fetch.

        Raises: ServiceError when it cannot be written, on a full disk for instance.
        """
        try:
            return await asyncio.to_thread(save_picture, picture.drawing, job.request, self._picture_folder)
        except Exception as error:
            raise as_space_error(error, "keep the picture as a file") from error

    async def _followed(self, job: Job) -> AsyncIterator[View]:
        event = None
        async for news in follow_latest(job):
            event = news or event
            if isinstance(event, Picture):
                picture = await self.saved(event, job)
                prompt = job.request.prompt
                yield page_view.finished(event, job.elapsed_s, picture, prompt, self._note(prompt))
            elif isinstance(event, Failed | Cancelled):
                yield page_view.finished(event, job.elapsed_s, None, job.request.prompt)
            elif event is not None:
                yield page_view.under_way(event, job.elapsed_s)
            else:
                yield View(page_text.waiting_html(page_text.ASKED, job.elapsed_s))

    def _note(self, prompt: str) -> str:
        """What to say of a picture that the demo model had to guess."""
        guessed = self._service.status().demo and not demo_model.known_words(prompt)
        return page_text.NO_KNOWN_WORDS if guessed else ""


def as_space_error(error: Exception, tried: str) -> SpaceError:
    """The error as one that can be told; an unexpected one is a fault of ours, and goes to the log with its traceback.

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
