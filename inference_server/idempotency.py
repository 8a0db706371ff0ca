"""Makes a repeated post safe: the same `startRequestId` joins the request in flight, or gets its kept result.

A result is kept for ten minutes, or less when memory is short. The same id with another body is refused. A request
without an id ends when its client hangs up; one with an id ends when no client came back for 10 s, or for as long as a
Space waits for its worker.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from inference_server.errors import Refusal
from inference_server.kept_results import KeptResults
from inference_server.tickets import Outcome, Ticket
from inference_server.wire import PictureRequest

KEEP_S = 600.0
KEEP_BYTES = 128_000_000
REJOIN_S, REJOIN_MAX_S = 10.0, 900.0


@dataclass
class _Entry:
    ticket: Ticket
    followers: int = 0
    rejoin: asyncio.TimerHandle | None = None  # runs while no client follows
    expiry: asyncio.TimerHandle | None = None  # runs once the result is kept

    def stop_waiting(self) -> None:
        """Stops the clock of the wait for a client: a client came back, or the request ended."""
        if self.rejoin is not None:
            self.rejoin.cancel()
            self.rejoin = None


class IdempotencyStore:
    """Belongs to the event loop's thread."""

    def __init__(
        self,
        submit: Callable[[PictureRequest], Ticket],
        cancel: Callable[[Ticket], None],
        kept: KeptResults | None = None,
    ) -> None:
        """`kept`: where results outlive this process."""
        self._submit, self._cancel, self._kept = submit, cancel, kept
        self._entries: dict[str, _Entry] = {}  # oldest first
        self._kept_bytes = 0
        self._rejoin_s = REJOIN_S

    def wait_for_clients(self, seconds: float) -> None:
        """How long a request goes on without its client from now on."""
        self._rejoin_s = max(0.0, min(seconds, REJOIN_MAX_S))

    def join(self, request: PictureRequest) -> Ticket:
        """The ticket of this request, new or known. Each `join` needs a `leave`. Raises: Refusal."""
        entry = self._entries.get(request.request_id)
        if entry is None:
            entry = _Entry(self._finished_before(request) or self._submit(request))
            self._entries[request.request_id] = entry
            entry.ticket.on_done.append(self._on_done)
            self._on_done(entry.ticket)  # it may have been refused already
        elif entry.ticket.request.digest != request.digest:
            raise Refusal(
                409,
                "REQUEST_ID_REUSED",
                "This startRequestId belongs to a request with another body. Take a new id for another picture.",
            )
        entry.followers += 1
        entry.stop_waiting()
        return entry.ticket

    def _finished_before(self, request: PictureRequest) -> Ticket | None:
        """A request that an earlier process of this server has finished."""
        body = self._kept.find(request.request_id, request.digest) if self._kept and request.has_own_id else None
        if body is None:
            return None
        ticket = Ticket(request)
        ticket.finish(Outcome(body))
        return ticket

    @property
    def is_waited_for(self) -> bool:
        """Whether nobody else draws what is lost here, so that it is worth to be finished without its client."""
        return self._rejoin_s > REJOIN_S

    def acknowledge(self, request_id: str) -> None:
        """Its client has the result: it need not outlive this process."""
        if self._kept is not None:
            self._kept.forget(request_id)

    def leave(self, ticket: Ticket) -> None:
        """A client was served, or lost its connection."""
        entry = self._entries.get(ticket.request.request_id)
        if entry is None or entry.ticket is not ticket:
            return
        entry.followers -= 1
        if entry.followers or ticket.outcome is not None:
            return
        if ticket.request.has_own_id:
            entry.rejoin = asyncio.get_running_loop().call_later(self._rejoin_s, self._abandon, entry)
        else:
            self._abandon(entry)

    def _abandon(self, entry: _Entry) -> None:
        """No client came back to this request; another may have its id by now."""
        request_id = entry.ticket.request.request_id
        if self._entries.get(request_id) is entry:
            self.cancel(request_id)

    def cancel(self, request_id: str) -> bool:
        """Ends a request at once, so that its id is free again; False when none is in flight."""
        entry = self._entries.get(request_id)
        if entry is None or entry.ticket.outcome is not None:
            self.acknowledge(request_id)  # nobody wants what is kept of it
            return False
        del self._entries[request_id]
        entry.stop_waiting()
        self._cancel(entry.ticket)
        return True

    def _on_done(self, ticket: Ticket) -> None:
        """Keeps a result under its client's own id; a failure is not kept, so that the next post tries again."""
        entry = self._entries.get(ticket.request.request_id)
        if entry is None or entry.ticket is not ticket or ticket.outcome is None:
            return
        entry.stop_waiting()
        if not ticket.request.has_own_id or ticket.outcome.refusal is not None:
            del self._entries[ticket.request.request_id]
            return
        if self._kept is not None:
            self._kept.keep(ticket.request.request_id, ticket.request.digest, ticket.outcome.body)
        self._kept_bytes += len(ticket.outcome.body)
        entry.expiry = asyncio.get_running_loop().call_later(KEEP_S, self._forget, ticket.request.request_id)
        for request_id, old in list(self._entries.items()):
            if self._kept_bytes <= KEEP_BYTES:
                break
            if old.expiry is not None and old is not entry:
                self._forget(request_id)

    def _forget(self, request_id: str) -> None:
        entry = self._entries.pop(request_id)
        if self._kept is not None:
            self._kept.forget(request_id)
        if entry.expiry is not None:
            entry.expiry.cancel()
        if entry.ticket.outcome is not None:
            self._kept_bytes -= len(entry.ticket.outcome.body)
