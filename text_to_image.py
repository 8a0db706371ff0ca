"""From a prompt to a picture: starts what is missing when it is first needed, draws, recovers from a lost service.

`text_to_image(prompt)` returns a PIL image, as in the tutorial; it is the short form of `submit(prompt) -> Job`.
"""

import functools
import logging
import threading
from collections.abc import Sequence
from typing import Any

from PIL import Image
from starlette.routing import BaseRoute

from backends.base import Backend
from backends.choose import choose_backend
from drawing.jobs import Job, Jobs
from drawing.models import GeneratedImage, GenerationRequest
from drawing.status import BackendStatus
from errors import EndpointUnreachableError, JobCancelledError
from settings import Settings

log = logging.getLogger(__name__)
_making_default = threading.Lock()

ROUNDS = 3  # a service that has died since is started again, twice at most for one drawing


class TextToImage:
    """Draws on one backend. Every method may be called from any thread."""

    def __init__(self, backend: Backend, jobs: Jobs | None = None) -> None:
        self._backend = backend
        self._jobs = jobs or Jobs()

    def submit(self, *values: Any, **named: Any) -> Job:
        """Begins to draw; returns at once. Takes the fields of `GenerationRequest`, in their order or by name.

        Raises: InvalidRequestError with the reason in a visitor's words, BusyError.
        """
        request = GenerationRequest.checked(self._backend.status().limits, *values, **named)
        return self._jobs.start(request, self._draw)

    def job(self, job_id: str) -> Job | None:
        """The job of that id; None once it is forgotten."""
        return self._jobs.get(job_id)

    def status(self) -> BackendStatus:
        """What is known of the place that draws; asks nobody."""
        return self._backend.status()

    def routes(self) -> Sequence[BaseRoute]:
        """What the page's server answers for the place that draws."""
        return self._backend.routes()

    def close(self) -> None:
        """Ends what this process started."""
        self._backend.close()

    def _draw(self, job: Job) -> GeneratedImage:
        for attempt in range(1, ROUNDS + 1):
            _end_if_cancelled(job)
            self._backend.ensure(job.tell, job.cancel_requested.is_set)
            job.request.check(self._backend.status().limits)
            try:
                return self._backend.draw(
                    job.request, job_id=job.id, tell=job.tell, cancelled=job.cancel_requested.is_set
                )
            except EndpointUnreachableError as error:
                _end_if_cancelled(job)  # which is then no failure
                if attempt == ROUNDS:
                    raise
                log.warning("looking after the services: %s", error)
        raise AssertionError("unreachable: the last round returns or raises")


def _end_if_cancelled(job: Job) -> None:
    """Raises: JobCancelledError."""
    if job.cancel_requested.is_set():
        raise JobCancelledError()


def default_service() -> TextToImage:
    """The service that the environment's settings describe; nothing is started before its first drawing.

    Raises: SettingsError.
    """
    with _making_default:  # fifty threads that ask first at once must not get a chain each
        return _default_service()


@functools.cache
def _default_service() -> TextToImage:
    return TextToImage(choose_backend(Settings.load()))


def submit(prompt: str, *values: Any, **named: Any) -> Job:
    """Begins to draw with the environment's settings; see `TextToImage.submit`."""
    return default_service().submit(prompt, *values, **named)


def text_to_image(prompt: str, *values: Any, timeout_s: float = 900.0, **named: Any) -> Image.Image:
    """The picture of a prompt, RGB: `text_to_image(prompt, negative_prompt, height, width, num_inference_steps, ...)`.

    It takes the fields of `GenerationRequest`, in their order or by name. `height`, `width` in pixels; `seed` 0 to
    2**32 - 1; None leaves the choice to the server. `timeout_s`: seconds that a cold start and the drawing may take.
    Raises: SpaceError (the tree in errors.py).
    """
    return submit(prompt, *values, **named).result(timeout_s).image
