"""A drawing as a job: it belongs to the process, whoever follows it and however long."""

import asyncio
import threading
import time
import weakref
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from PIL import Image

from drawing import log_context
from drawing.events import Cancelled, Event, Failed, Picture, Queued, Step, Waking
from drawing.jobs import Job, Jobs
from drawing.models import GeneratedImage, GenerationRequest, Receipt
from errors import BusyError, DrawingError, JobCancelledError, JobTimeoutError, ServiceError
from tests.support.processes import wait_until

PATIENT_S = 60  # what is waited for comes at once, except on a busy machine
REQUEST = GenerationRequest("x")
DRAWING = GeneratedImage(Image.new("RGB", (8, 8)), b"encoded", "PNG", 7, Receipt())


class Studio:
    """Draws when it may, and notices a cancel while it waits."""

    def __init__(self) -> None:
        self.may_draw = threading.Event()
        self.began = threading.Event()

    def draw(self, job: Job) -> GeneratedImage:
        job.tell(Waking("starting"))
        self.began.set()
        deadline = time.monotonic() + PATIENT_S
        while not self.may_draw.wait(0.01):
            if job.cancel_requested.is_set():
                raise JobCancelledError("The drawing was cancelled.")
            assert time.monotonic() < deadline
        job.tell(Step(1, 2))
        return DRAWING


def draw_at_once(job: Job) -> GeneratedImage:
    job.tell(Step(1, 1))
    return DRAWING


def finished(job: Job) -> Job:
    wait_until("the job to end", lambda: job.finished)
    return job


async def all_events(job: Job, after: int = 0) -> list[Event]:
    return [event async for event in job.follow(after)]


def test_result() -> None:
    """The drawing comes back, and its events can be read in order."""
    job = Jobs().start(REQUEST, draw_at_once)
    assert job.result(PATIENT_S) is DRAWING
    assert job.events == (Step(1, 1), Picture(DRAWING))


def test_result_that_is_late() -> None:
    """Giving up on a result does not end the job: it can be asked for again."""
    studio = Studio()
    job = Jobs().start(REQUEST, studio.draw)
    with pytest.raises(JobTimeoutError):
        job.result(0.05)
    studio.may_draw.set()
    assert job.result(PATIENT_S) is DRAWING


def test_ids_cannot_be_guessed() -> None:
    """Every job has an id of its own, with at least 128 random bits, which `repr` does not tell."""
    jobs = Jobs()
    made = [jobs.start(REQUEST, draw_at_once) for _ in range(20)]
    assert len({job.id for job in made}) == 20
    assert all(len(job.id) >= 22 for job in made)
    assert made[0].id not in repr(made[0])
    assert jobs.get(made[3].id) is made[3]
    assert jobs.get("no such job") is None


def test_the_log_does_not_tell_who_may_see_the_picture() -> None:
    """A job's log lines carry the first letters of its id, not the id that shows its picture."""
    told: list[str] = []

    def draw(job: Job) -> GeneratedImage:
        told.append(log_context._job_id.get())
        return DRAWING

    job = Jobs().start(REQUEST, draw)
    job.result(PATIENT_S)
    assert told == [job.id[:8]]


def test_failures() -> None:
    """An error of the tree is kept as it is; any other becomes one that tells a visitor nothing of our insides."""

    def refuse(job: Job) -> GeneratedImage:
        raise DrawingError("the model said no")

    def stumble(job: Job) -> GeneratedImage:
        raise KeyError("secret inside")

    with pytest.raises(DrawingError, match="the model said no"):
        Jobs().start(REQUEST, refuse).result(PATIENT_S)
    with pytest.raises(ServiceError, match="unexpected KeyError") as caught:
        Jobs().start(REQUEST, stumble).result(PATIENT_S)
    assert "secret inside" not in str(caught.value)


def test_cancel() -> None:
    """A cancelled job ends soon, without a picture; a second cancel, or one after the end, is harmless."""
    studio = Studio()
    job = Jobs().start(REQUEST, studio.draw)
    job.cancel()
    with pytest.raises(JobCancelledError):
        job.result(PATIENT_S)
    job.cancel()
    assert job.events[-1] == Cancelled()
    done = finished(Jobs().start(REQUEST, draw_at_once))
    done.cancel()
    assert done.result(1) is DRAWING


def test_nothing_is_told_after_the_end() -> None:
    """The last event is the picture, whatever is told later."""
    job = finished(Jobs().start(REQUEST, draw_at_once))
    job.tell(Queued(1))
    job.tell(Failed(DrawingError("late")))
    assert job.events[-1] == Picture(DRAWING)


def test_follow_as_it_happens() -> None:
    """A follower gets each event once, in order, and ends with the last one."""
    studio = Studio()
    job = Jobs().start(REQUEST, studio.draw)

    async def follow() -> list[Event]:
        seen: list[Event] = []
        async for event in job.follow():
            seen.append(event)
            studio.may_draw.set()
        return seen

    assert asyncio.run(asyncio.wait_for(follow(), PATIENT_S)) == [Waking("starting"), Step(1, 2), Picture(DRAWING)]


def test_follow_late() -> None:
    """Who comes after the end still sees everything, from the first event or from a later one."""
    job = finished(Jobs().start(REQUEST, draw_at_once))
    assert asyncio.run(all_events(job)) == [Step(1, 1), Picture(DRAWING)]
    assert asyncio.run(all_events(job, after=1)) == [Picture(DRAWING)]
    assert asyncio.run(all_events(job, after=2)) == []


def test_fifty_followers_hold_no_thread() -> None:
    """Fifty follow one job on one event loop, without a thread of their own, and each sees all of it."""
    studio = Studio()
    job = Jobs().start(REQUEST, studio.draw)
    assert studio.began.wait(PATIENT_S)
    before = threading.active_count()

    async def follow_all() -> list[list[Event]]:
        followers = [asyncio.create_task(all_events(job)) for _ in range(50)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert threading.active_count() <= before
        studio.may_draw.set()
        return await asyncio.wait_for(asyncio.gather(*followers), PATIENT_S)

    seen = asyncio.run(follow_all())
    assert all(events == [Waking("starting"), Step(1, 2), Picture(DRAWING)] for events in seen)


def test_closing_the_follower_does_not_end_the_job() -> None:
    """A page that is closed leaves its job alone, and the job forgets that follower."""
    studio = Studio()
    job = Jobs().start(REQUEST, studio.draw)

    async def look_once() -> Event:
        follower = job.follow()
        assert isinstance(follower, AsyncIterator)
        first = await anext(follower)
        await follower.aclose()  # type: ignore[attr-defined]
        return first

    assert asyncio.run(look_once()) == Waking("starting")
    assert not job._wakers
    studio.may_draw.set()
    assert job.result(PATIENT_S) is DRAWING


def test_a_follower_whose_loop_is_gone() -> None:
    """A loop that was closed in the middle of following holds up nobody."""
    studio = Studio()
    job = Jobs().start(REQUEST, studio.draw)
    loop = asyncio.new_event_loop()
    follower = job.follow()
    loop.run_until_complete(anext(follower))
    loop.close()
    studio.may_draw.set()
    assert job.result(PATIENT_S) is DRAWING


def test_a_storm_of_events() -> None:
    """Of ten thousand events told from another thread none is lost or out of order."""

    def storm(job: Job) -> GeneratedImage:
        for number in range(10_000):
            job.tell(Queued(number))
        return DRAWING

    job = Jobs().start(REQUEST, storm)
    seen = asyncio.run(asyncio.wait_for(all_events(job), PATIENT_S))
    assert seen == [*map(Queued, range(10_000)), Picture(DRAWING)]


def test_repeated_events_are_told_once() -> None:
    """The same event twice in a row is one event."""
    job = Job(REQUEST)
    for place in (2, 2, 1, 1, 2):
        job.tell(Queued(place))
    assert job.events == (Queued(2), Queued(1), Queued(2))


def test_previews_are_not_kept() -> None:
    """Once a job has ended its steps hold no previews: hundreds of kept jobs would not fit into memory."""

    def with_previews(job: Job) -> GeneratedImage:
        for number in range(1, 4):
            job.tell(Step(number, 3, bytes([number]) * 1000))
        return DRAWING

    job = finished(Jobs().start(REQUEST, with_previews))
    assert job.events == (Step(1, 3), Step(2, 3), Step(3, 3), Picture(DRAWING))


def test_too_many() -> None:
    """Beyond `max_active` a drawing is refused at once; a finished one makes room."""
    studio = Studio()
    jobs = Jobs(max_active=2)
    first = [jobs.start(REQUEST, studio.draw) for _ in range(2)]
    with pytest.raises(BusyError, match=r"^Busy: "):
        jobs.start(REQUEST, studio.draw)
    first[0].cancel()
    finished(first[0])
    third = jobs.start(REQUEST, studio.draw)
    studio.may_draw.set()
    assert third.result(PATIENT_S) is DRAWING


def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """When no thread can be started the visitor is told to come again, and no place stays taken."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    jobs = Jobs(max_active=1)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(BusyError):
            jobs.start(REQUEST, draw_at_once)
    assert jobs.start(REQUEST, draw_at_once).result(PATIENT_S) is DRAWING


def test_expiry() -> None:
    """A finished job is forgotten after `keep_s`; one that is under way never."""
    studio = Studio()
    jobs = Jobs(keep_s=600)
    active = jobs.start(REQUEST, studio.draw)
    done = finished(jobs.start(REQUEST, draw_at_once))
    assert jobs.get(done.id) is done
    for job in (active, done):
        job._started_at -= 601  # so much later
    assert done.finished_at is not None
    done.finished_at -= 601
    assert jobs.get(done.id) is None
    assert jobs.get(active.id) is active
    studio.may_draw.set()
    assert active.result(PATIENT_S) is DRAWING


def test_only_the_newest_are_kept() -> None:
    """Of finished jobs the newest `max_kept` are kept."""
    jobs = Jobs(max_kept=3)
    made = [finished(jobs.start(REQUEST, draw_at_once)) for _ in range(6)]
    wait_until("the last one to be counted", lambda: len(jobs._jobs) == 3)
    assert [jobs.get(job.id) is not None for job in made] == [False, False, False, True, True, True]


def test_the_pictures_that_are_kept_are_bounded() -> None:
    """Of finished jobs as many are kept as their pictures fit in, the newest; one that is followed is kept besides."""
    drawing = replace(DRAWING, encoded=bytes(1000))
    bytes_each = 1000 + 8 * 8 * 3
    jobs = Jobs(max_picture_bytes=2 * bytes_each)
    made = []
    for number in range(5):
        made.append(finished(jobs.start(REQUEST, lambda job: drawing)))
        if number == 1:
            made[1]._wakers.add(lambda: None)
    assert made[0].picture_bytes == bytes_each
    wait_until("the last one to be counted", lambda: len(jobs._jobs) == 3)
    assert [jobs.get(job.id) is not None for job in made] == [False, True, False, True, True]


def test_a_panic_ends_the_job() -> None:
    """Libraries in Rust raise what is no Exception: the visitor is told, and the job does not count as active."""

    class Panic(BaseException):
        pass

    def draw(job: Job) -> GeneratedImage:
        raise Panic

    jobs = Jobs(max_active=1)
    with pytest.raises(ServiceError, match="unexpected Panic"):
        jobs.start(REQUEST, draw).result(PATIENT_S)
    assert jobs.start(REQUEST, draw_at_once).result(PATIENT_S) is DRAWING


def test_a_failed_job_holds_nothing_of_its_picture() -> None:
    """What had come of it, 64 MB at most, goes with the attempt: hundreds of failed jobs fit into the memory."""
    had_come: list[weakref.ref[Image.Image]] = []

    def receive() -> None:
        part = Image.new("RGB", (8, 8))
        had_come.append(weakref.ref(part))
        raise ValueError("cut short")

    def draw(job: Job) -> GeneratedImage:
        try:
            receive()
        except ValueError as error:
            raise DrawingError("no") from error
        return DRAWING

    job = finished(Jobs().start(REQUEST, draw))
    wait_until("it to be forgotten", lambda: had_come[0]() is None)
    with pytest.raises(DrawingError) as raised:
        job.result(PATIENT_S)
    assert isinstance(raised.value.__cause__, ValueError)


def test_a_drawing_under_way_is_no_picture_to_forget() -> None:
    """However little room there is for pictures: what is under way is not forgotten."""
    studio = Studio()
    jobs = Jobs(max_picture_bytes=0)
    active = jobs.start(REQUEST, studio.draw)
    done = finished(jobs.start(REQUEST, draw_at_once))
    wait_until("the last one to be counted", lambda: len(jobs._jobs) == 1)
    assert (jobs.get(active.id), jobs.get(done.id)) == (active, None)
    studio.may_draw.set()
    assert active.result(PATIENT_S) is DRAWING
