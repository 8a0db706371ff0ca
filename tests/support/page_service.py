"""A stand-in for the service behind the page: real jobs, whose drawings pass through every stage without a server."""

import io
import threading
from typing import Any

import gradio as gr
from PIL import Image, PngImagePlugin

from drawing.events import Queued, Step, Waking
from drawing.jobs import Job, Jobs
from drawing.models import Defaults, GeneratedImage, GenerationRequest, Limits, Receipt
from drawing.status import BackendStatus
from errors import JobCancelledError, SpaceError
from page.layout import create_page
from page.serve import launch
from tests.support.processes import free_port

STEPS = 20


def picture(request: GenerationRequest, seed: int, unused_words: tuple[str, ...] = ()) -> GeneratedImage:
    """A one-coloured picture; its PNG carries `parameters` as text metadata."""
    size = (request.width or 256, request.height or 256)
    image = Image.new("RGB", size, (seed % 200 + 30, 90, 160))
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", f"{request.prompt} Seed: {seed}")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=text)
    return GeneratedImage(image, buffer.getvalue(), "PNG", seed, Receipt(inference_s=0.2, unused_words=unused_words))


def small_preview(step: int) -> bytes:
    """A 32 x 32 px JPEG that grows brighter with each step."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (10 * step, 120, 60)).save(buffer, "JPEG")
    return buffer.getvalue()


class StandInService:
    """Takes the place of `TextToImage`. A drawing passes the gates in order: waking, queued, drawing, done.

    Gates are open unless `hold(name)` closed one; `let(name)` opens it again. `fail_with`: the error that the next
    drawings end in, those of `fail_seeds` alone if there are any; `refuse_with`: the error that the next requests are
    refused with, after `refuse_after` more that are taken; `words_read`: how many words of a prompt the model reads,
    None for all.
    """

    def __init__(self, *, demo: bool = True, tunnel: bool = True) -> None:
        self.fail_with: SpaceError | None = None
        self.fail_seeds: set[int | None] = set()
        self.refuse_with: SpaceError | None = None
        self.refuse_after = 0
        self.words_read: int | None = None
        self.model: str | None = None
        self.limits = Limits()
        self.defaults = Defaults()
        self.started: list[Job] = []
        self.looked_for: list[str] = []  # the ids that the page asked for
        self.visitors: list[tuple[str, str]] = []  # name and address of each who asked
        self.closed = False
        self.jobs = Jobs()
        self._demo, self._tunnel = demo, tunnel
        self._gates = {name: threading.Event() for name in ("waking", "queued", "drawing", "done")}
        for gate in self._gates.values():
            gate.set()
        self._newcomers_are_free = False

    def hold(self, gate: str) -> None:
        """Drawings stop before they leave this stage."""
        self._newcomers_are_free = False
        self._gates[gate].clear()

    def let(self, gate: str) -> None:
        """Drawings that were held there go on."""
        self._gates[gate].set()

    def let_newcomers(self) -> None:
        """Drawings that are asked for from now on pass every gate; the others stay held."""
        self._newcomers_are_free = True

    def submit(
        self,
        *values: Any,
        visitor: str = "",
        address: str = "",
        patience_s: float | None = None,
        nearest: bool = False,
        **named: Any,
    ) -> Job:
        """See TextToImage. There is no line: who asked is kept in `visitors`."""
        self.visitors.append((visitor, address))
        if self.refuse_with is not None and self.refuse_after <= 0:
            raise self.refuse_with
        self.refuse_after -= 1
        free = self._newcomers_are_free  # decided here: the job's thread may begin much later
        request = GenerationRequest.checked(self.limits, *values, **named)
        job = self.jobs.start(request, lambda job: self._draw(job, free), patience_s=patience_s)
        self.started.append(job)
        return job

    def job(self, job_id: str) -> Job | None:
        """See TextToImage."""
        self.looked_for.append(job_id)
        return self.jobs.get(job_id)

    def status(self) -> BackendStatus:
        """See TextToImage."""
        return BackendStatus(
            "local", self._demo, self._tunnel, bool(self.started), self.model, self.limits, self.defaults
        )

    def routes(self) -> tuple[()]:
        return ()

    def close(self) -> None:
        """See TextToImage."""
        self.closed = True

    def _draw(self, job: Job, free: bool) -> GeneratedImage:
        job.tell(Waking("Waking the machine that draws"))
        self._pass("waking", job, free)
        job.tell(Queued(3))
        self._pass("queued", job, free)
        for step in range(1, STEPS + 1):
            job.tell(Step(step, STEPS, small_preview(step)))
            if step == STEPS * 2 // 5:
                self._pass("drawing", job, free)
        self._pass("done", job, free)
        if self.fail_with is not None and (not self.fail_seeds or job.request.seed in self.fail_seeds):
            raise self.fail_with
        unused = () if self.words_read is None else tuple(job.request.prompt.split()[self.words_read :])
        return picture(job.request, 42 if job.request.seed is None else job.request.seed, unused)

    def _pass(self, gate: str, job: Job, free: bool) -> None:
        while not free and not self._gates[gate].wait(0.25):
            if job.cancel_requested.is_set():
                break
        if job.cancel_requested.is_set():
            raise JobCancelledError("The drawing was cancelled.")


def serve(service: StandInService, port: int | None = None) -> tuple[gr.Blocks, str]:
    """The page of this service and its address; `page.close()` ends it. `port`: None takes a free one."""
    page = create_page(service)  # type: ignore[arg-type]  # a stand-in: it has what the page uses
    return page, launch(page, port=port or free_port())
