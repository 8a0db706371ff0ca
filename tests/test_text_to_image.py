"""From prompt to picture: what is checked at once, what is tried again, and how it ends."""

import threading
import time
from collections.abc import Callable

import pytest
from PIL import Image

import text_to_image
from drawing.blocked_words import BlockedWords
from drawing.events import Picture, Queued, Step, Tell, Waking
from drawing.jobs import Job, Jobs
from drawing.models import Defaults, GeneratedImage, GenerationRequest, Limits, Range, Receipt
from drawing.status import BackendStatus
from errors import (
    BusyError,
    DrawingError,
    EndpointAnswerError,
    EndpointUnreachableError,
    EndpointUntrustedError,
    InvalidRequestError,
    JobCancelledError,
    JobTimeoutError,
    SpaceError,
    StartError,
    WorkerLostError,
)
from tests.support.processes import wait_until
from text_to_image import ROUNDS, TextToImage

DRAWING = GeneratedImage(Image.new("RGB", (8, 8)), b"encoded", "PNG", 7, Receipt())
PATIENT_S = 60  # what is waited for comes at once, except on a busy machine
PARTS = {"tried": "draw", "came_back": "no", "next_step": "Look."}


def unreachable() -> SpaceError:
    return EndpointUnreachableError("Endpoint", how="closed", **PARTS)


class ScriptedBackend:
    """Draws after having failed as told; counts what is asked of it. `limits` hold once it was ready."""

    def __init__(self, *failures: SpaceError, limits: Limits | None = None) -> None:
        self.failures = list(failures)
        self.ensured: list[str] = []
        self.drawn: list[str] = []
        self.closed = False
        self.start_fails: SpaceError | None = None
        self.hold = threading.Event()
        self.hold.set()
        self._limits = limits

    def ensure(self, tell: Tell, cancelled: Callable[[], bool]) -> None:
        tell(Waking("Starting"))
        deadline = time.monotonic() + PATIENT_S
        while not self.hold.wait(0.01):
            if cancelled():
                raise JobCancelledError("The drawing was cancelled.")
            assert time.monotonic() < deadline
        if self.start_fails:
            raise self.start_fails
        self.ensured.append("x")

    def draw(
        self, request: GenerationRequest, *, job_id: str, tell: Tell, cancelled: Callable[[], bool]
    ) -> GeneratedImage:
        self.drawn.append(job_id)
        if self.failures:
            raise self.failures.pop(0)
        tell(Step(1, 1))
        return DRAWING

    def status(self) -> BackendStatus:
        limits = (self._limits if self.ensured else None) or Limits()
        return BackendStatus("fair", False, True, bool(self.ensured), None, limits, Defaults())

    def routes(self) -> tuple[()]:
        return ()

    def close(self) -> None:
        self.closed = True


def test_a_picture() -> None:
    """A prompt leads to a picture, its stages told on the way."""
    job = TextToImage(ScriptedBackend()).submit("a red apple", seed=7)
    assert job.result(PATIENT_S).image is DRAWING.image
    assert job.events == (Waking("Starting"), Step(1, 1), Picture(job.result(0)))
    assert job.request == GenerationRequest("a red apple", seed=7)


@pytest.mark.parametrize("failures", range(ROUNDS))
def test_a_service_that_died_since(failures: int) -> None:
    """When nobody answers the services are looked after and the same drawing is asked for again, under its own id."""
    backend = ScriptedBackend(*[unreachable() for _ in range(failures)])
    job = TextToImage(backend).submit("x")
    assert job.result(PATIENT_S).image is DRAWING.image
    assert len(backend.ensured) == failures + 1
    assert set(backend.drawn) == {job.id}


def test_it_is_not_tried_for_ever() -> None:
    """Beyond a few rounds the failure is told."""
    backend = ScriptedBackend(*[unreachable() for _ in range(ROUNDS + 1)])
    with pytest.raises(EndpointUnreachableError):
        TextToImage(backend).submit("x").result(PATIENT_S)
    assert len(backend.drawn) == ROUNDS


def test_an_hour_in_line_does_not_count_for_a_line_that_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a worker's line may break is measured from its first break, not from the visitor's asking."""
    monkeypatch.setattr(Job, "elapsed_s", text_to_image.AGAIN_FOR_S + 1)
    backend = ScriptedBackend(*[WorkerLostError("Worker", how="closed", **PARTS) for _ in range(2)])
    TextToImage(backend).submit("a cat").result(PATIENT_S)
    assert len(backend.drawn) == 3


@pytest.mark.parametrize(
    "failure",
    [
        EndpointUntrustedError("Endpoint", **PARTS),
        EndpointAnswerError("Endpoint", **PARTS),
        DrawingError("no"),
        BusyError("too many."),
        InvalidRequestError("no such size"),
        JobCancelledError("x"),
        StartError("Inference server", **PARTS),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_not_tried_again(failure: SpaceError) -> None:
    """What another try cannot mend is told at once, as it is."""
    backend = ScriptedBackend(failure)
    with pytest.raises(type(failure)):
        TextToImage(backend).submit("x").result(PATIENT_S)
    assert len(backend.drawn) == 1


def test_the_next_prompt_tries_again() -> None:
    """After a start that failed the next drawing begins anew."""
    backend = ScriptedBackend()
    backend.start_fails = StartError("Fair", **PARTS)
    service = TextToImage(backend)
    with pytest.raises(StartError):
        service.submit("x").result(PATIENT_S)
    assert backend.drawn == []
    backend.start_fails = None
    assert service.submit("x").result(PATIENT_S).image is DRAWING.image


def test_bad_input_is_refused_at_once() -> None:
    """What cannot be drawn makes no job and asks nobody."""
    backend = ScriptedBackend()
    for parameters in ({"prompt": ""}, {"prompt": "x", "seed": "many"}, {"prompt": "x", "width": 9999}):
        with pytest.raises(InvalidRequestError):
            TextToImage(backend).submit(**parameters)
    assert backend.ensured == []


def test_the_servers_own_limits() -> None:
    """Limits that are learnt only at the start still refuse the drawing before it is sent."""
    backend = ScriptedBackend(limits=Limits(width=Range(min=64, max=256, multiple=64)))
    service = TextToImage(backend)
    with pytest.raises(InvalidRequestError, match="256"):
        service.submit("x", width=1024).result(PATIENT_S)
    assert backend.drawn == []
    with pytest.raises(InvalidRequestError, match="256"):
        service.submit("x", width=1024)


def test_cancel_while_waking() -> None:
    """A cancel during a cold start ends the drawing without sending it."""
    backend = ScriptedBackend()
    backend.hold.clear()
    job = TextToImage(backend).submit("x")
    job.cancel()
    with pytest.raises(JobCancelledError):
        job.result(PATIENT_S)
    assert backend.drawn == []


def test_jobs_are_found_again() -> None:
    """A job is found by its id, and is refused with `Busy:` when too many are under way."""
    backend = ScriptedBackend()
    backend.hold.clear()
    service = TextToImage(backend, Jobs(max_active=1))
    job = service.submit("x")
    assert service.job(job.id) is job
    with pytest.raises(BusyError, match=r"^Busy: "):
        service.submit("x")
    with pytest.raises(JobTimeoutError):
        job.result(0.05)
    backend.hold.set()
    assert job.result(PATIENT_S).image is DRAWING.image
    service.close()
    assert backend.closed


def test_the_short_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """`text_to_image(prompt)` gives the picture; fifty first calls at once share one service."""
    made: list[ScriptedBackend] = []

    def choose(settings: object) -> ScriptedBackend:
        made.append(ScriptedBackend())
        return made[-1]

    monkeypatch.setattr(text_to_image, "choose_backend", choose)
    text_to_image._default_service.cache_clear()
    images: list[Image.Image] = []
    threads = [
        threading.Thread(target=lambda: images.append(text_to_image.text_to_image("x", seed=1))) for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENT_S)
    text_to_image._default_service.cache_clear()
    assert images == [DRAWING.image] * 50
    assert len(made) == 1


class SlowBackend(ScriptedBackend):
    """Draws one at a time, each when the test lets it: `began` are the prompts in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.began: list[str] = []
        self.may_end = threading.Semaphore(0)

    def draw(
        self, request: GenerationRequest, *, job_id: str, tell: Tell, cancelled: Callable[[], bool]
    ) -> GeneratedImage:
        self.began.append(request.prompt)
        tell(Step(1, 9))
        assert self.may_end.acquire(timeout=PATIENT_S)
        return DRAWING


def test_a_visitor_behind_ten_calls() -> None:
    """Ten drawings of one caller make the next visitor wait for the first of them alone; each is drawn in the end."""
    backend = SlowBackend()
    service = TextToImage(backend)
    calls = [service.submit(f"call {number}", visitor="program") for number in range(10)]
    wait_until("the first to begin", lambda: backend.began)
    wait_until("the others to stand in line", lambda: all(job.events for job in calls))
    job = service.submit("visitor", visitor="page")
    wait_until("the visitor to stand in line", lambda: Queued(1) in job.events)
    for _ in range(11):
        backend.may_end.release()
    assert job.result(PATIENT_S).image is DRAWING.image
    assert [call.result(PATIENT_S).image for call in calls] == [DRAWING.image] * 10
    assert backend.began[1] == "visitor"
    assert len(backend.began) == 11


def test_limits_of_a_visitor() -> None:
    """Beyond his limits a visitor is refused with `Busy:`, whatever session he makes; a refusal counts for nothing."""
    backend = ScriptedBackend()
    backend.hold.clear()
    service = TextToImage(backend, visitor_waiting_max=1, visitor_pictures_per_hour=2)
    job = service.submit("x", visitor="a", address="1.2.3.4")
    with pytest.raises(BusyError, match=r"^Busy: 1 of your pictures"):
        service.submit("x", visitor="a", address="1.2.3.4")
    backend.hold.set()
    job.result(PATIENT_S)
    service.submit("x", visitor="b", address="1.2.3.4").result(PATIENT_S)
    for _ in range(3):
        with pytest.raises(BusyError, match=r"^Busy: .* 2 pictures an hour"):
            service.submit("x", visitor="c", address="1.2.3.4")
    service.submit("x", visitor="c", address="5.6.7.8").result(PATIENT_S)


def test_a_full_house_takes_no_picture_of_the_hour() -> None:
    """Who is refused because all have too much to do has the pictures of his hour still before him."""
    backend = ScriptedBackend()
    backend.hold.clear()
    service = TextToImage(backend, Jobs(max_active=1), visitor_pictures_per_hour=1)
    first = service.submit("a cat", visitor="a")
    for _ in range(2):
        with pytest.raises(BusyError, match="under way"):
            service.submit("a dog", visitor="b")
    backend.hold.set()
    first.result(PATIENT_S)
    service.submit("a dog", visitor="b").result(PATIENT_S)
    with pytest.raises(BusyError, match="an hour"):
        service.submit("a dog", visitor="b")


def test_blocked_words_refuse_before_anything_starts() -> None:
    """A prompt that the maintainer's list names is refused gently: nothing is started, no picture counted."""
    backend = ScriptedBackend()
    service = TextToImage(backend, blocked=BlockedWords(["gun"]), visitor_pictures_per_hour=1)
    with pytest.raises(InvalidRequestError, match="other subjects"):
        service.submit("a gun")
    assert backend.ensured == []
    service.submit("a flower").result(PATIENT_S)


def test_a_cold_page_draws_the_nearest() -> None:
    """Where the limits are learnt only after the wake-up, the page's drawing is moved inside them, and says so."""
    backend = ScriptedBackend(limits=Limits(width=Range(min=64, max=256, multiple=64)))
    generated = TextToImage(backend).submit("x", width=1024, nearest=True).result(PATIENT_S)
    assert generated.receipt.substituted == ("Width: 256, the nearest that this model draws, instead of 1024",)


def test_a_scheduler_that_is_not_offered() -> None:
    """The page's drawing with a scheduler that the model does not offer takes the model's own, and says so, also when
    that is known before; a program's is refused with those that are offered.
    """
    backend = ScriptedBackend(limits=Limits(schedulers=("DDIMScheduler", "Euler a")))
    service = TextToImage(backend)
    for _ in ("cold", "warm"):
        job = service.submit("x", scheduler="Heun", nearest=True)
        assert job.result(PATIENT_S).receipt.substituted == ("Scheduler: the model's own, for there is no Heun here",)
        assert job.request.scheduler is None
    kept = service.submit("x", scheduler="euler A", nearest=True)
    assert kept.result(PATIENT_S).receipt.substituted == ()
    assert kept.request.scheduler == "euler A"
    with pytest.raises(
        InvalidRequestError, match=r"no scheduler 'Heun' here\. There are: DDIMScheduler, Euler a"
    ) as caught:
        service.submit("x", scheduler="Heun")
    assert caught.value.parameter == "scheduler"


def test_where_the_time_went() -> None:
    """A picture's receipt has the time in line and until all was ready."""
    receipt = TextToImage(ScriptedBackend()).submit("x").result(PATIENT_S).receipt
    assert receipt.line_s is not None
    assert receipt.ready_s is not None
    assert receipt.total_s is not None
    assert receipt.line_s + receipt.ready_s <= receipt.total_s


def test_what_nobody_waits_for_is_not_drawn() -> None:
    """A drawing whose caller has gone while it stood in line is dropped when its turn comes."""
    backend = SlowBackend()
    service = TextToImage(backend)
    first = service.submit("first")
    wait_until("the first to begin", lambda: backend.began)
    gone = service.submit("gone", patience_s=0.0)
    wait_until("the second to stand in line", lambda: gone.events)
    for _ in range(2):
        backend.may_end.release()
    first.result(PATIENT_S)
    with pytest.raises(JobCancelledError):
        gone.result(PATIENT_S)
    assert backend.began == ["first"]
