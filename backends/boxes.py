"""Several GPU boxes, each with a Fair chain of its own: the one that is up and least loaded draws.

A prompt wakes all of them and is drawn by the first that is there. One that is off is left out, and looked for again
with the next prompts; each goes to sleep by itself. The tunnel's server, where there is one, is theirs in common.
"""

import contextvars
import functools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from starlette.routing import BaseRoute

from backends.base import Cancelled, EndpointBackend
from backends.by_room import by_room, limits_of
from backends.deployment import SharedTunnel
from backends.single_flight import SingleFlight
from backends.start import TellStage
from drawing.events import Queued, Step, Tell, Waking
from drawing.models import GeneratedImage, GenerationRequest
from drawing.status import BackendStatus, BoxStatus
from endpoint.wire_format import Health
from errors import (
    AwayError,
    BusyError,
    EndpointError,
    EndpointUnreachableError,
    FairError,
    GpuBusyError,
    JobCancelledError,
    ServiceError,
    SettingsError,
    StartError,
    SupersededError,
)
from fair_api.models import Program

log = logging.getLogger(__name__)

LINK = "GPU boxes"
ANOTHER = "The machine that draws is gone in mid-picture: another one draws it"
# Where all boxes fail in such a way, it is no box's own fault.
_COMMON = (SettingsError, FairError, SupersededError, AwayError)


class Box:
    """One box. `waking`: a start is under way, at `stage`; `error`: how the last one failed."""

    is_going = False

    def __init__(self, name: str, chain: EndpointBackend) -> None:
        self.name, self.chain = name, chain
        self.waking, self.stage = False, ""
        self.error: Exception | None = None
        self.in_flight = 0

    @property
    def health(self) -> Health | None:
        return self.chain.health

    def status(self) -> BoxStatus:
        """What is known of it now."""
        told = self.error.came_back if isinstance(self.error, ServiceError) else str(self.error or "")
        return BoxStatus(self.name, self.chain.ready, None if self.chain.ready else told or None)


class Boxes:
    """The backend of several boxes. `make_chain`: makes the chain of a box, given its name and what it shares.

    `timeout_s`: how long a box's start may take.
    """

    def __init__(
        self, names: Sequence[str], make_chain: Callable[[str, SharedTunnel], EndpointBackend], *, timeout_s: float
    ) -> None:
        self._changed = threading.Condition()
        self._timeout_s = timeout_s
        launched: dict[str, Program] = {}
        lock = threading.Lock()
        self._boxes = [
            Box(name, make_chain(name, SharedTunnel(launched, lock, functools.partial(self._others_answer, name))))
            for name in names
        ]
        self._flight = SingleFlight(self._wait_for_one, name="getting a GPU box ready")

    def ensure(self, tell: Tell, cancelled: Cancelled) -> None:
        """See `Backend`. Returns as soon as one box is ready; the others are woken beside it."""
        if cancelled():
            raise JobCancelledError()
        self._wake_all()
        if not self._one_is_ready():
            self._flight.join(tell, cancelled, timeout_s=self._timeout_s)

    def draw(self, request: GenerationRequest, *, job_id: str, tell: Tell, cancelled: Cancelled) -> GeneratedImage:
        """See `Backend`. One whose box is lost in mid-picture is drawn by the next box, once each."""
        failed: Exception | None = None
        tried: list[Box] = []
        while box := self._take(request, tried):
            if isinstance(failed, EndpointError):
                tell(Waking(ANOTHER))
            try:
                image = box.chain.draw(request, job_id=job_id, tell=tell, cancelled=cancelled)
            except (BusyError, GpuBusyError, StartError) as error:
                failed = failed or error
            except EndpointError as error:
                if cancelled():
                    raise JobCancelledError() from None
                log.warning("%s is lost in mid-picture: %s", box.name, error)
                self._beside(box.chain.cancel, job_id)  # it may draw on where only the way there is lost
                failed = error
            else:
                return replace(image, receipt=replace(image.receipt, worker=box.name))
            finally:
                self._give_back(box)
        raise failed or EndpointUnreachableError(
            LINK, how="closed", tried="draw", came_back="none of them is there any more", next_step="They are woken."
        )

    def status(self) -> BackendStatus:
        """See `Backend`. What the boxes that are up can do together; where none is, what the first was seen to do."""
        up = by_room(reversed(self._boxes))
        status = (up or self._boxes)[0].chain.status()
        return replace(
            status,
            ready=self._one_is_ready(),
            limits=limits_of(box.health for box in up) if up else status.limits,
            boxes=tuple(box.status() for box in self._boxes),
        )

    def routes(self) -> Sequence[BaseRoute]:
        """See `Backend`. Nobody connects to this page for a box."""
        return ()

    def close(self) -> None:
        """See `Backend`."""
        for box in self._boxes:
            box.chain.close()

    def _take(self, request: GenerationRequest, tried: list[Box]) -> Box | None:
        """The box with the most room that was not tried yet; it has a drawing more from now on."""
        with self._changed:
            able = by_room((box for box in reversed(self._boxes) if box not in tried), request)
            if able:
                able[0].in_flight += 1
                tried.append(able[0])
            return able[0] if able else None

    def _give_back(self, box: Box) -> None:
        with self._changed:
            box.in_flight -= 1

    def _one_is_ready(self) -> bool:
        return any(box.chain.ready for box in self._boxes)

    def _others_answer(self, name: str) -> bool:
        return any(box.chain.answers() for box in self._boxes if box.name != name)

    def _wake_all(self) -> None:
        """Begins to wake each box that is not ready, unless that is under way; waits for none."""
        for box in self._boxes:
            with self._changed:
                if box.waking or box.chain.ready:
                    continue
                box.waking, box.stage = True, ""
            try:
                self._beside(self._wake, box)
            except RuntimeError as error:  # there is no thread for it
                self._woken(box, error)

    def _beside(self, work: Callable[..., None], *arguments: object) -> None:
        context = contextvars.copy_context()  # so that its log lines carry the job that began it
        threading.Thread(target=context.run, args=(work, *arguments), name=LINK, daemon=True).start()

    def _wake(self, box: Box) -> None:
        def tell(event: Waking | Queued | Step) -> None:
            if isinstance(event, Waking):
                with self._changed:
                    box.stage = event.stage
                    self._changed.notify_all()

        try:
            box.chain.ensure(tell, lambda: False)
        except Exception as error:  # told by whoever waits for a box, where no other one is there
            self._woken(box, error)
        else:
            self._woken(box, None)

    def _woken(self, box: Box, error: Exception | None) -> None:
        with self._changed:
            if error is not None and box.error is None:
                log.warning("%s is left out until it is back: %s", box.name, error)
            box.waking, box.error = False, error
            self._changed.notify_all()

    def _wait_for_one(self, tell: TellStage) -> None:
        """Returns once a box is ready; or, where none will be, once all are awake and one of them takes posts.

        Raises: the boxes' errors, as one.
        """
        self._wake_all()
        told = ""
        while True:
            with self._changed:
                waking = [box for box in self._boxes if box.waking]
                if not waking or self._one_is_ready():
                    break
                stage = next((box.stage for box in waking if box.stage), "")
                if stage == told:
                    self._changed.wait(0.25)
            if stage != told:
                tell(stage)
                told = stage
        if not by_room(self._boxes):
            raise self._none_is_up()

    def _none_is_up(self) -> Exception:
        errors: Mapping[str, Exception] = {box.name: box.error for box in self._boxes if box.error is not None}
        for kind in _COMMON:
            if errors and all(isinstance(error, kind) for error in errors.values()):
                return next(iter(errors.values())).with_traceback(None)
        return StartError(
            LINK,
            tried=f"get one of {', '.join(box.name for box in self._boxes)} ready",
            came_back="; ".join(f"{name}: {error}" for name, error in errors.items()) or "each was lost again at once",
            next_step="One of them is enough.",
        )
