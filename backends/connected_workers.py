"""The connected workers, taken together: which of them draws, what they can do, and why none draws."""

import functools
from collections.abc import Iterable, Sequence

from backends.away import away_error
from drawing.models import Defaults, GenerationRequest, Limits
from drawing.status import BackendStatus
from endpoint.wire_format import Health
from endpoint.worker_connection import WorkerConnection
from errors import Absence, StartError

LINK = "Workers"


def absence_of(worker: WorkerConnection) -> Absence | None:
    """Why its owner lets it draw nothing now."""
    return worker.health.absence if worker.health else None


def by_room(workers: Iterable[WorkerConnection], request: GenerationRequest | None = None) -> list[WorkerConnection]:
    """Those that take a drawing now, the one with the most room first; without those whose limits `request` exceeds,
    if others are left. `workers`: the oldest line first.

    One whose GPU is busy draws nothing, but has no room either: it comes last. Of equal ones the newest line comes
    first: an older one may be what is left of a worker that has come back.
    """
    able = [
        (worker.health, worker)
        for worker in reversed(list(workers))
        if not worker.is_going and worker.health is not None and worker.health.takes_posts
    ]
    fitting = [one for one in able if _allows(one[0], request)] or able
    fitting.sort(key=lambda one: (one[0].gpu_busy, one[1].in_flight))
    return [worker for _, worker in fitting]


def paused(workers: Iterable[WorkerConnection]) -> list[WorkerConnection]:
    """Those that finish what they have and take nothing new."""
    return [worker for worker in workers if absence_of(worker) and not worker.is_going]


def absence_of_all(workers: Iterable[WorkerConnection], left_at: float | None) -> Absence | None:
    """Why nobody draws now; None while somebody is there. Of several that are paused, the first to come back.

    `left_at`: when the last one left, in seconds since the epoch.
    """
    absences = [absence_of(worker) for worker in workers]
    if not absences:
        return Absence("off", since=left_at)
    known = [absence for absence in absences if absence is not None]
    if len(known) < len(absences):
        return None
    return min(known, key=lambda absence: float("inf") if absence.until is None else absence.until)


def none_draws(workers: Sequence[WorkerConnection], left_at: float | None) -> StartError:
    """The error for a drawing that none of them takes."""
    tried = "find one that draws"
    if absence := absence_of_all(workers, left_at):
        return away_error(LINK, tried, absence)
    there = workers[0]
    came_back = f"{there.name} was not ready in time"
    if there.health and there.health.broken:
        reason = f" ({there.health.reason})" if there.health.reason else ""
        came_back = f"{there.name} could not load its model{reason}"
    return StartError(LINK, tried=tried, came_back=came_back, next_step="See its log.")


def status_of(
    workers: Sequence[WorkerConnection],
    newest: WorkerConnection | None,
    absence: Absence | None,
    stand_in: BackendStatus | None,
) -> BackendStatus:
    """What is known now: the limits of all who can draw; of the newest worker where none can.

    `newest`: gone or not; `absence`: why nobody draws; `stand_in`: the one that draws meanwhile.
    """
    able = by_room(workers)
    worker = able[0] if able else newest
    health = worker.health if worker else None
    healths = [one.health for one in able] if able else [health]
    known = [one.limits for one in healths if one and one.limits]
    limits = functools.reduce(Limits.wider, known) if known else Limits()
    if stand_in is not None:
        limits = limits.model_copy(update={"images_at_once": stand_in.limits.images_at_once})
    return BackendStatus(
        kind="workers",
        demo=stand_in is not None and stand_in.demo,
        tunnel=False,
        ready=bool(health and health.engine == "ready" and worker in workers),
        model=health.model if health else None,
        limits=limits,
        defaults=health.defaults if health else Defaults(),
        away=absence is not None,
        stand_in=stand_in is not None,
        absence=absence,
        wakes_in_s=health.wakes_in_s if health and health.engine == "asleep" else None,
    )


def _allows(health: Health, request: GenerationRequest | None) -> bool:
    return request is None or health.limits is None or request.within(health.limits) == request
