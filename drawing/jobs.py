"""A drawing as a job: its events, who follows it, how it is cancelled.

A job belongs to the process, not to its visitor: closing the page does not end it, only cancel, failure, success or
expiry does. The work runs in a thread of the job's own; followers hold none.
"""

import asyncio
import hmac
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from drawing.events import Cancelled, Event, Failed, Picture, Step
from drawing.log_context import job_context
from drawing.models import GeneratedImage, GenerationRequest
from errors import BusyError, JobCancelledError, JobTimeoutError, ServiceError, SpaceError

log = logging.getLogger(__name__)

KEEP_S = 24 * 3600.0


class Job:
    """One drawing. Made by `Jobs.start`; every method may be called from any thread.

    `id` lets its bearer see the picture, `cancel_token` lets him cancel the job. `patience_s`: for how long it counts
    as wanted after somebody last followed it or asked for it; None: for ever.
    """

    def __init__(self, request: GenerationRequest, *, patience_s: float | None = None) -> None:
        self.id = secrets.token_urlsafe(16)
        self.cancel_token = secrets.token_urlsafe(16)
        self.request = request
        self.patience_s = patience_s
        self.asked_at = time.time()  # for people to read
        self.on_cancel: Callable[[], None] = _nothing
        self._started_at = self._wanted_at = self._told_at = time.monotonic()
        self.cancel_requested = threading.Event()
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._wakers: set[Callable[[], None]] = set()
        self.finished_at: float | None = None  # by `time.monotonic`
        self._preview_at: int | None = None  # the one event that still holds a preview

    def __repr__(self) -> str:
        return f"<Job {self.id[:6]}... {type(self.events[-1]).__name__ if self.events else 'new'}>"

    @property
    def events(self) -> tuple[Event, ...]:
        """All events so far, the first one first."""
        with self._changed:
            return tuple(self._events)

    @property
    def finished(self) -> bool:
        """Whether the last event is there (picture, failed or cancelled)."""
        return self.finished_at is not None

    @property
    def followed(self) -> bool:
        """Whether somebody follows it just now."""
        return bool(self._wakers)

    @property
    def wanted(self) -> bool:
        """Whether anybody may still wait for it."""
        idle_s = time.monotonic() - self._wanted_at
        return self.followed or self.patience_s is None or idle_s < self.patience_s

    def want(self) -> None:
        """Somebody has asked for it, or stopped following it, just now."""
        self._wanted_at = time.monotonic()

    @property
    def quiet_s(self) -> float:
        """Seconds since its last event, 0 once it has finished."""
        return 0.0 if self.finished else time.monotonic() - self._told_at

    @property
    def picture_bytes(self) -> int:
        """What its picture takes in memory, as a file and decoded; 0 without one."""
        last = self._events[-1] if self._events else None
        if not isinstance(last, Picture):
            return 0
        image = last.generated.image
        return len(last.generated.encoded) + image.width * image.height * len(image.getbands())

    @property
    def elapsed_s(self) -> float:
        """Seconds since the job began, until now or until it finished."""
        return (self.finished_at or time.monotonic()) - self._started_at

    def tell(self, event: Event) -> None:
        """Appends an event and wakes every follower; ignored once the job has finished. Only the newest step keeps its
        preview: hundreds of kept jobs with hundreds of previews each would not fit into memory.
        """
        with self._changed:
            if self.finished or (self._events and self._events[-1] == event):
                return
            self._drop_preview_before(event)
            self._events.append(event)
            self._told_at = time.monotonic()
            if isinstance(event, Picture | Failed | Cancelled):
                self.finished_at = time.monotonic()
            self._changed.notify_all()
            wakers = tuple(self._wakers)
        for wake in wakers:
            wake()

    def _drop_preview_before(self, event: Event) -> None:
        newer = isinstance(event, Step) and event.preview is not None
        if self._preview_at is not None and (newer or isinstance(event, Picture | Failed | Cancelled)):
            shown = self._events[self._preview_at]
            if isinstance(shown, Step):
                self._events[self._preview_at] = replace(shown, preview=None)
            self._preview_at = None
        if newer:
            self._preview_at = len(self._events)

    def cancel(self) -> None:
        """Ends the job, without a picture. Harmless when it has ended.

        Its followers know at once; the server is told at the next sign of life from it, within about a second.
        """
        self.cancel_requested.set()
        self.tell(Cancelled())
        self.on_cancel()

    def may_cancel(self, token: object) -> bool:
        """Whether this is the job's cancel token."""
        if not isinstance(token, str):
            return False
        return hmac.compare_digest(token.encode(errors="replace"), self.cancel_token.encode())

    def result(self, timeout_s: float) -> GeneratedImage:
        """The picture, once it is there.

        Raises: JobTimeoutError after `timeout_s` seconds (the job goes on), JobCancelledError, or the error the
        job failed with.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.finished, timeout_s):
                raise JobTimeoutError(
                    f"The picture was not there after {timeout_s:g} s; the job goes on. Ask for its result again."
                )
            last = self._events[-1]
        if isinstance(last, Picture):
            return last.generated
        raise last.error if isinstance(last, Failed) else JobCancelledError()

    async def follow(self, after: int = 0) -> AsyncIterator[Event]:
        """Every event from number `after` (0: the first) to the last one, as they come. Holds no thread."""
        loop = asyncio.get_running_loop()
        news = asyncio.Event()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(news.set)
            except RuntimeError:  # that loop is closed: its follower is gone
                self._wakers.discard(wake)

        self._wakers.add(wake)
        try:
            position = after
            while True:
                news.clear()
                finished, events = self.finished, self.events[position:]
                for event in events:
                    yield event
                position += len(events)
                if finished:
                    return
                await news.wait()
        finally:
            self.want()
            self._wakers.discard(wake)

    def expired(self, keep_s: float) -> bool:
        """Whether the job ended more than `keep_s` seconds ago."""
        return self.finished_at is not None and time.monotonic() - self.finished_at > keep_s


class Jobs:
    """The jobs of this process.

    At most `max_active` at once; a finished one can be found by its id for `keep_s` seconds more, a day: the newest
    `max_kept` of them, as far as their pictures take no more than `max_picture_bytes` together. What is followed is
    kept.
    """

    def __init__(
        self,
        *,
        max_active: int = 500,
        keep_s: float = KEEP_S,
        max_kept: int = 2000,
        max_picture_bytes: int = 400_000_000,
    ) -> None:
        self._max_active = max_active
        self._keep_s = keep_s
        self._max_kept = max_kept
        self._max_picture_bytes = max_picture_bytes
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()

    def start(
        self,
        request: GenerationRequest,
        draw: Callable[[Job], GeneratedImage],
        *,
        patience_s: float | None = None,
    ) -> Job:
        """Begins to draw, in the job's own thread. `patience_s`: see `Job`.

        Raises: BusyError when `max_active` jobs are under way.
        """
        job = Job(request, patience_s=patience_s)
        with self._lock:
            self._forget_old()
            active = sum(not kept.finished for kept in self._jobs.values())
            if active >= self._max_active:
                raise BusyError(f"{active} drawings are under way.")
            self._jobs[job.id] = job
        try:
            threading.Thread(target=self._run, args=(job, draw), name=f"job-{job.id[:6]}", daemon=True).start()
        except RuntimeError as error:  # the machine has no thread left: the job must not count as active for ever
            with self._lock:
                del self._jobs[job.id]
            raise BusyError("this machine has no room for another drawing.") from error
        return job

    def get(self, job_id: str) -> Job | None:
        """The job of that id, None if there is none (any more). Who asks for it wants it."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is not None and job.expired(self._keep_s):  # no more than a look at this one: it is asked very often
                del self._jobs[job_id]
                job = None
        if job is not None:
            job.want()
        return job

    def _forget_old(self) -> None:
        finished = [job for job in self._jobs.values() if job.finished]
        finished.sort(key=lambda job: job.finished_at or 0.0, reverse=True)  # the newest first
        picture_bytes = 0
        for number, job in enumerate(finished):
            picture_bytes += job.picture_bytes
            too_many = number >= self._max_kept or picture_bytes > self._max_picture_bytes
            if (too_many and not job.followed) or job.expired(self._keep_s):
                del self._jobs[job.id]

    def _run(self, job: Job, draw: Callable[[Job], GeneratedImage]) -> None:
        with job_context(job.id[:8]):  # enough to find it by; who has all of it sees the picture
            started = time.monotonic()
            log.info("drawing begins")
            try:
                generated = draw(job)
            except JobCancelledError:
                log.info("cancelled after %.1f s", time.monotonic() - started)
                job.tell(Cancelled())
            except SpaceError as error:
                log.warning("failed after %.1f s: %s", time.monotonic() - started, error)
                job.tell(Failed(_without_frames(error)))
            except BaseException as error:  # a fault of ours, or a panic below Python: the followers have to be told
                log.exception("failed after %.1f s", time.monotonic() - started)
                job.tell(Failed(_our_fault(error)))
            else:
                log.info("picture after %.2f s, seed %s", time.monotonic() - started, generated.seed)
                job.tell(Picture(generated))
                with self._lock:
                    self._forget_old()
            finally:
                job.request = job.request.without_images


def _nothing() -> None:
    """Nobody has to be told of the cancel."""


def _without_frames(error: SpaceError) -> SpaceError:
    """The error and its causes without the frames that they came through: those hold what had come of the picture, up
    to 64 MB, and a failed job is kept for a day.
    """
    chain: list[BaseException] = [error]
    for one in chain:
        one.with_traceback(None)
        chain += [more for more in (one.__cause__, one.__context__) if more is not None and more not in chain]
    return error


def _our_fault(error: BaseException) -> ServiceError:
    return ServiceError(
        "This program",
        tried="draw the picture",
        came_back=f"an unexpected {type(error).__name__} was raised",
        next_step="Please try again; the maintainer finds the details in the log.",
    )
