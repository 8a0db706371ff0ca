"""The store of requests: which drawings a repeated post joins, how long results are kept and who is waited for."""

import asyncio
import json
from typing import Any

import pytest

from inference_server import idempotency
from inference_server.errors import busy
from inference_server.idempotency import REJOIN_S, IdempotencyStore
from inference_server.tickets import Outcome, Ticket
from inference_server.wire import PictureRequest, read_request
from tests.support.inference_engine import MovedClockLoop, run, settle


def request(**call_inputs: Any) -> PictureRequest:
    return read_request(json.dumps({"modelInputs": {"prompt": "a cat"}, "callInputs": call_inputs}).encode())


async def after(seconds: float) -> None:
    """So much later."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, MovedClockLoop)
    loop.moved_s += seconds
    await settle()


def test_kept_results_are_bounded_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound the oldest results go; the newest stays; failures are not kept at all."""
    monkeypatch.setattr(idempotency, "KEEP_BYTES", 250)

    async def fill() -> None:
        drawn: list[str] = []

        def submit(wanted: PictureRequest) -> Ticket:
            drawn.append(wanted.request_id)
            return Ticket(wanted)

        store = IdempotencyStore(submit, lambda ticket: ticket.refuse(busy(0)))
        for number in range(4):
            ticket = store.join(request(startRequestId=f"id-{number}"))
            ticket.finish(Outcome(b"x" * 100))
            store.leave(ticket)
        store.join(request(startRequestId="failed")).refuse(busy(0))
        for request_id in ("id-2", "id-3", "id-0", "failed"):
            store.join(request(startRequestId=request_id))
        assert drawn == ["id-0", "id-1", "id-2", "id-3", "failed", "id-0", "failed"]

    asyncio.run(fill())


def test_a_late_timer_cancels_nobody_elses_drawing() -> None:
    """Who leaves is waited for; a drawing that ended meanwhile leaves its id to the next, which is left alone."""

    async def story() -> None:
        cancelled = list[Ticket]()
        store = IdempotencyStore(Ticket, cancelled.append)
        for ended in ("failed", "cancelled"):
            left = store.join(request(startRequestId="same"))
            store.leave(left)
            if ended == "failed":
                left.refuse(busy(0))
            else:
                assert store.cancel("same")
            cancelled.clear()
            store.join(request(startRequestId="same"))
            await after(REJOIN_S + 1)
            assert cancelled == []
            assert store.cancel("same")

    run(story())


def test_who_leaves_is_waited_for() -> None:
    """A drawing with an id goes on for ten seconds without its client, and on if that one comes back in time."""

    async def story() -> None:
        cancelled = list[Ticket]()
        store = IdempotencyStore(Ticket, cancelled.append)
        left = store.join(request(startRequestId="back-soon"))
        store.leave(left)
        await after(REJOIN_S - 1)
        assert store.join(request(startRequestId="back-soon")) is left
        await after(2 * REJOIN_S)
        assert cancelled == []
        store.leave(left)
        await after(REJOIN_S - 1)
        assert cancelled == []
        await after(2)
        assert cancelled == [left]

    run(story())


def test_nobody_can_come_back_without_an_id() -> None:
    """A drawing without an id ends with its only client."""

    async def story() -> None:
        cancelled = list[Ticket]()
        store = IdempotencyStore(Ticket, cancelled.append)
        left = store.join(request())
        store.leave(left)
        assert cancelled == [left]

    run(story())
