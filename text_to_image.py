"""From a prompt to a picture: starts what is missing when it is first needed, draws, recovers from a lost service.

`text_to_image(prompt)` returns a PIL image, as in the tutorial; it is the short form of `submit(prompt) -> Job`.
"""

import contextlib
import functools
import itertools
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from PIL import Image
from starlette.routing import BaseRoute

from backends.base import Backend
from backends.choose import choose_backend
from drawing.blocked_words import BlockedWords
from drawing.jobs import Job, Jobs
from drawing.known_model import KnownModel
from drawing.models import GeneratedImage, GenerationRequest
from drawing.quota import Quota
from drawing.status import BackendStatus
from drawing.turns import Turn, Turns
from errors import EndpointUnreachableError, JobCancelledError, WorkerLostError
from settings import Settings

log = logging.getLogger(__name__)
_making_default = threading.Lock()

ROUNDS = 3  # a service that has died since is started again, twice at most for one drawing
AGAIN_FOR_S = 3600.0  # from its first break on a worker's line may break however often: `ensure` bounds each wait
_PAUSE_S, _PAUSE_MAX_S = 0.05, 5.0


class TextToImage:
    """Draws on one backend. Every method may be called from any thread.

    `visitor_waiting_max`, `visitor_pictures_per_hour`: limits for each visitor, 0 for none; `blocked`: prompts that are
    refused; `known`: what was known of the model before.
    """

    def __init__(
        self,
        backend: Backend,
        jobs: Jobs | None = None,
        *,
        visitor_waiting_max: int = 0,
        visitor_pictures_per_hour: int = 0,
        blocked: BlockedWords | None = None,
        known: KnownModel | None = None,
    ) -> None:
        self._backend = backend
        self._jobs = jobs or Jobs()
        self._turns = Turns(lambda: self._backend.status().limits.images_at_once, waiting_max=visitor_waiting_max)
        self._quota = Quota(visitor_pictures_per_hour)
        self._blocked = blocked or BlockedWords([])
        self._known = known or KnownModel()

    def submit(
        self,
        *values: Any,
        visitor: str = "",
        address: str = "",
        patience_s: float | None = None,
        nearest: bool = False,
        **named: Any,
    ) -> Job:
        """Begins to draw; returns at once. Takes the fields of `GenerationRequest`, in their order or by name.

        `visitor`: who asks, for turns go round by visitor; `address`: where from, for the pictures an hour, "" means
        the visitor; `patience_s`: see `Job`; `nearest`: numbers that turn out to lie outside the model's limits are
        moved inside, and a scheduler that it does not offer becomes its own, instead of refused; the receipt tells it.
        Raises: InvalidRequestError with the reason in a visitor's words, BusyError.
        """
        limits = self._backend.status().limits
        any_scheduler = {"schedulers": ()} if nearest else {}
        request = GenerationRequest.checked(limits.model_copy(update=any_scheduler), *values, **named)
        self._blocked.check(request.prompt)
        turn = self._turns.ask(visitor)
        with contextlib.ExitStack() as refused:
            refused.callback(turn.leave)
            self._quota.count(address or visitor)
            refused.callback(self._quota.give_back, address or visitor)
            job = self._jobs.start(request, lambda job: self._draw(job, turn, nearest), patience_s=patience_s)
            refused.pop_all()
        return job

    def job(self, job_id: str) -> Job | None:
        """The job of that id; None once it is forgotten."""
        return self._jobs.get(job_id)

    def status(self) -> BackendStatus:
        """What is known of the place that draws, from an earlier run too; asks nobody."""
        return self._known.fill_in(self._backend.status())

    def routes(self) -> Sequence[BaseRoute]:
        """What the page's server answers for the place that draws."""
        return self._backend.routes()

    def close(self) -> None:
        """Ends what this process started."""
        self._backend.close()

    def _draw(self, job: Job, turn: Turn, nearest: bool) -> GeneratedImage:
        turn.wanted = lambda: job.wanted
        job.on_cancel = turn.go.set
        try:
            return self._draw_in_turn(job, turn, nearest)
        finally:
            turn.leave()

    def _draw_in_turn(self, job: Job, turn: Turn, nearest: bool) -> GeneratedImage:
        ready_s = line_s = 0.0
        first_lost_s: float | None = None  # not the job's start: it may have been in line for an hour
        moved: list[str] = []
        for attempt in itertools.count(1):
            _end_if_cancelled(job)
            begun = time.monotonic()
            self._backend.ensure(job.tell, job.cancel_requested.is_set)
            ready_s += time.monotonic() - begun
            self._known.note(self._backend.status())
            moved += self._fit(job, nearest)
            begun = time.monotonic()
            try:
                with turn.taken(job.tell, job.cancel_requested.is_set) as tell:
                    line_s += time.monotonic() - begun
                    generated = self._backend.draw(
                        job.request, job_id=job.id, tell=tell, cancelled=job.cancel_requested.is_set
                    )
                    return _with_receipt(generated, moved, line_s, ready_s, job.elapsed_s)
            except EndpointUnreachableError as error:
                _end_if_cancelled(job)  # which is then no failure
                is_line = isinstance(error, WorkerLostError)
                first_lost_s = first_lost_s or job.elapsed_s
                if job.elapsed_s - first_lost_s > AGAIN_FOR_S if is_line else attempt >= ROUNDS:
                    raise
                log.warning("looking after the services: %s", error)
                if is_line:
                    job.cancel_requested.wait(min(_PAUSE_S * attempt, _PAUSE_MAX_S))
        raise AssertionError("unreachable: the last round returns or raises")

    def _fit(self, job: Job, nearest: bool) -> list[str]:
        """Looks at the request again now that the limits are known, and says what it has moved.

        Raises: InvalidRequestError.
        """
        limits = self._backend.status().limits
        fitting = job.request.nearest(limits) if nearest else job.request
        fitting.check(limits)
        asked, job.request = job.request, fitting
        moved = [
            f"{name.replace('_', ' ').capitalize()}: {value:g}, the nearest that this model draws, instead of {old:g}"
            for name, old in vars(asked).items()
            if (value := getattr(fitting, name)) != old and value is not None
        ]
        if fitting.scheduler != asked.scheduler:
            moved.append(f"Scheduler: the model's own, for there is no {asked.scheduler} here")
        return moved


def _with_receipt(
    generated: GeneratedImage, moved: list[str], line_s: float, ready_s: float, total_s: float
) -> GeneratedImage:
    """The picture with the times of this side, and what was moved."""
    told = generated.receipt
    receipt = replace(told, substituted=(*moved, *told.substituted), line_s=line_s, ready_s=ready_s, total_s=total_s)
    return replace(generated, receipt=receipt)


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
    settings = Settings.load()
    return TextToImage(
        choose_backend(settings),
        visitor_waiting_max=settings.visitor_waiting_max,
        visitor_pictures_per_hour=settings.visitor_pictures_per_hour,
        blocked=BlockedWords.read(settings.blocked_words),
        known=KnownModel.of(
            settings.cache_folder, settings.mode, settings.deployment, settings.endpoint_url, settings.inference
        ),
    )


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
