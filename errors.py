"""The error tree: split by what the caller can do about it.

    SpaceError                  everything that this project raises on purpose
    ├── SettingsError           a setting is missing or wrong: the maintainer mends it, nothing was tried
    ├── InvalidRequestError     this cannot be drawn as asked: the visitor changes the request
    ├── BusyError               too many are waiting: the visitor tries again after `retry_after_s`
    ├── GpuBusyError            the GPU's owner uses it for something else: the visitor tries again later
    ├── JobCancelledError       somebody cancelled the drawing
    ├── JobTimeoutError         the caller of `result(timeout_s)` waited long enough; the job goes on
    ├── DrawingError            the inference server was reached and could not draw this (the model said no)
    └── ServiceError            a link of the chain failed: `link`, `tried`, `came_back`, `next_step`
        ├── FairError           Fair did not answer, or refused (`status`: its HTTP status, if it sent one)
        ├── StartError          a service did not come up
        │   ├── AwayError       the owner's machine is off or paused (`absence`): the visitor comes back later
        │   ├── SupersededError a newer process of this Space runs: this one starts and ends nothing any more
        │   └── PortTakenError  something else holds its port: take another one, where that is ours to choose
        └── EndpointError       the inference endpoint
            ├── EndpointUnreachableError   nobody answered, or the answer broke off: start what is missing
            │   └── WorkerLostError        a worker's line broke: it comes back, and has kept what it drew
            ├── EndpointUntrustedError     somebody else answered (pin, bearer): starting more does not help
            └── EndpointAnswerError        an answer that cannot be understood, or is no picture

Only page/handlers.py turns these into `gr.Error`. No message holds a secret.
"""

from dataclasses import dataclass
from typing import Literal

Silence = Literal["refused", "closed", "silent", "unheard", "unknown"]


class SpaceError(Exception):
    """Root of everything that this project raises on purpose."""


class SettingsError(SpaceError):
    """A setting is missing or wrong; the message names it and says what to set."""


class InvalidRequestError(SpaceError):
    """What was asked for cannot be drawn; the message is written for the visitor.

    `parameter`: the field of GenerationRequest that is wrong, None for the request as a whole.
    """

    parameter: str | None = None


class BusyError(SpaceError):
    """Too many drawings are waiting already. The message begins with `Busy:`.

    `retry_after_s`: seconds after which another try makes sense.
    """

    def __init__(self, reason: str, *, retry_after_s: float = 5.0) -> None:
        super().__init__(f"Busy: {reason} Please try again in {retry_after_s:.0f} s.")
        self.retry_after_s = retry_after_s


class GpuBusyError(SpaceError):
    """The GPU's memory is taken by something else, such as a game or a training. Nothing needs to be mended."""

    def __init__(self) -> None:
        super().__init__("The GPU is busy with something else of its owner's right now. Please try again later.")


class JobCancelledError(SpaceError):
    """The drawing was cancelled. `server_knows`: False when the server that draws it could not be told."""

    def __init__(self, message: str = "The drawing was cancelled.", *, server_knows: bool = True) -> None:
        super().__init__(message)
        self.server_knows = server_knows


class JobTimeoutError(SpaceError):
    """`result(timeout_s)` gave up waiting; the job itself goes on."""


class DrawingError(SpaceError):
    """The inference server answered that it cannot draw this.

    `code`: its code, such as `PIPELINE_ERROR`.
    """

    def __init__(self, message: str, *, code: str = "APP_INFERENCE_ERROR") -> None:
        super().__init__(message)
        self.code = code


class ServiceError(SpaceError):
    """A link of the chain failed.

    `link`: which one, in the maintainer's words; `tried`: what was done; `came_back`: what was seen instead of
    success; `next_step`: what to do about it. The message is made of the four.
    """

    def __init__(self, link: str, *, tried: str, came_back: str, next_step: str) -> None:
        super().__init__(f"{link}: tried to {tried}, but {came_back.rstrip('.')}. {next_step}")
        self.link = link
        self.tried = tried
        self.came_back = came_back
        self.next_step = next_step


class FairError(ServiceError):
    """Fair did not answer, or refused. `status`: the HTTP status that it sent, None when it sent none.

    `lasting`: waiting does not help; `unsent`: what was asked for has surely not reached it.
    """

    def __init__(
        self,
        link: str = "Fair",
        *,
        tried: str,
        came_back: str,
        next_step: str,
        status: int | None = None,
        lasting: bool = False,
        unsent: bool = False,
    ) -> None:
        super().__init__(link, tried=tried, came_back=came_back, next_step=next_step)
        self.status = status
        self.lasting = lasting
        self.unsent = unsent

    @property
    def may_pass(self) -> bool:
        """Whether it may be over in a moment: nothing understandable came back, or a fault on Fair's side did."""
        return not self.lasting and (self.status is None or self.status >= 500)


class StartError(ServiceError):
    """A service did not come up, or its node is away."""


@dataclass(frozen=True)
class Absence:
    """Why the owner's machine draws nothing now. Times in seconds since the epoch, None where nobody knows.

    `off`: it is not there, `since` then. `paused` by its owner, or `budget`: it has drawn its minutes for today; both
    `until` then.
    """

    reason: Literal["off", "paused", "budget"] = "off"
    since: float | None = None
    until: float | None = None


class AwayError(StartError):
    """The owner's machine draws nothing now, and nobody stands in for it."""

    def __init__(self, link: str, *, tried: str, came_back: str, next_step: str, absence: Absence = Absence()) -> None:
        super().__init__(link, tried=tried, came_back=came_back, next_step=next_step)
        self.absence = absence


class SupersededError(StartError):
    """A newer process of the same deployment has started services of its own; they are not to be touched."""


class PortTakenError(StartError):
    """A service did not come up since something else holds its port."""


class EndpointError(ServiceError):
    """Something is wrong with the inference endpoint."""


class EndpointUnreachableError(EndpointError):
    """Nobody answered, or the answer broke off.

    `how`: `refused` (nobody listens), `closed` (accepted, then cut: behind a tunnel, the service is down), `silent`
    (accepted, and then nothing: frozen, or a dead line), `unheard` (not even refused: a firewall, or no such machine)
    or `unknown` (no name server knows the host's name). The last two tell nothing of the services.
    """

    def __init__(self, link: str, *, how: Silence, tried: str, came_back: str, next_step: str) -> None:
        super().__init__(link, tried=tried, came_back=came_back, next_step=next_step)
        self.how = how


class WorkerLostError(EndpointUnreachableError):
    """A worker's line broke in mid-picture, or before it was asked; ask again, it keeps what it draws."""


class EndpointUntrustedError(EndpointError):
    """What answered is not our inference server, or does not take us for its owner."""


class EndpointAnswerError(EndpointError):
    """An answer that cannot be understood, or a picture that is none."""
