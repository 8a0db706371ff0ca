"""The connected workers, taken together: which of them draws, what they can do, and why none draws."""

from collections.abc import Iterable, Sequence

from backends.away import away_error
from backends.by_room import by_room, limits_of
from drawing.models import Defaults
from drawing.status import BackendStatus
from endpoint.worker_connection import WorkerConnection
from errors import Absence, StartError

LINK = "Workers"


def absence_of(worker: WorkerConnection) -> Absence | None:
    """Why its owner lets it draw nothing now."""
    return worker.health.absence if worker.health else None


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
    limits = limits_of([one.health for one in able] if able else [health])
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
        licence=health.licence if health else "",
        away=absence is not None,
        stand_in=stand_in is not None,
        absence=absence,
        wakes_in_s=health.wakes_in_s if health and health.engine == "asleep" else None,
    )
