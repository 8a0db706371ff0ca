"""Drawings whose worker's line broke in mid-picture: who may still be making them, and until when."""

import time
from dataclasses import dataclass, field

from endpoint.worker_connection import WorkerConnection
from errors import WorkerLostError

LEASE_S = 10.0  # after its line broke a worker may go on for so long while others could draw as well
PROCESSES_MAX = 5  # a drawing that has ended so many workers is not given to another one
_KEPT_S = 900.0  # the longest that a worker goes on for a Space that it has lost


@dataclass
class Lost:
    """One drawing. `connection`: the line that it was lost with; `instances`: the processes that were lost so far."""

    connection: WorkerConnection
    since_s: float  # monotonic
    instances: set[str] = field(default_factory=set)
    asked_again: bool = False  # the same process was, after its line was back

    @property
    def instance(self) -> str:
        """The process that had it."""
        return self.connection.instance

    @property
    def held_until_s(self) -> float:
        """Before this, on the monotonic clock, no other worker may draw it: there would be two pictures. A process that
        said goodbye comes back on no other line, and goes on with nothing that others may draw.
        """
        return self.since_s if self.connection.leaving else self.since_s + LEASE_S

    def is_over(self, worker: WorkerConnection) -> bool:
        """Whether this worker's being there shows that the process is no more: its name's next one. Two machines may
        have one name, but then they are heard side by side.
        """
        next_one = worker.name == self.connection.name and worker.instance != self.instance
        return next_one and worker.opened_s > self.connection.heard_s

    def is_back(self, worker: WorkerConnection) -> bool:
        """Whether this is the process that had it, on a new line, or on the old one that speaks again."""
        same = worker.instance == self.instance and not worker.is_going
        return same and (worker is not self.connection or worker.heard_s > self.since_s)


def lost_error(link: str, came_back: str, next_step: str = "It is waited for.") -> WorkerLostError:
    """The error after which a drawing is asked for again."""
    return WorkerLostError(link, how="closed", tried="draw", came_back=came_back, next_step=next_step)


class LostDrawings:
    """Under its caller's lock."""

    def __init__(self) -> None:
        self._lost: dict[str, Lost] = {}

    def note(self, job_id: str, worker: WorkerConnection) -> Lost:
        """Its line has just broken."""
        now = time.monotonic()
        self._lost = {one: lost for one, lost in self._lost.items() if now - lost.since_s < _KEPT_S}
        before = self._lost.get(job_id)
        instances = {worker.instance, *(before.instances if before else ())}
        self._lost[job_id] = lost = Lost(worker, now, instances)
        return lost

    def get(self, job_id: str) -> Lost | None:
        return self._lost.get(job_id)

    def wait_at(self, instance: str) -> bool:
        """Whether this process may have one that nobody has asked it for since."""
        return any(lost.instance == instance and not lost.asked_again for lost in self._lost.values())

    def claim(self, job_id: str, worker: WorkerConnection) -> None:
        """This worker is asked for it now."""
        if (lost := self._lost.get(job_id)) and lost.instance == worker.instance:
            lost.asked_again = True

    def take_unasked(self, worker: WorkerConnection) -> list[str]:
        """The drawings that this process had on an older line, which nobody has asked it for since."""
        unasked = [
            one
            for one, lost in self._lost.items()
            if lost.instance == worker.instance and lost.connection is not worker and not lost.asked_again
        ]
        for job_id in unasked:
            del self._lost[job_id]
        return unasked
