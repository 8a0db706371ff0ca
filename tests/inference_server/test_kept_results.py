"""Results on the disk: a worker that is killed finds what it had drawn."""

import asyncio
import json
import logging
import os
import time
from pathlib import Path

import pytest

from inference_server.idempotency import IdempotencyStore
from inference_server.kept_results import KeptResults
from inference_server.tickets import Outcome, Ticket
from inference_server.wire import PictureRequest, read_request
from tests.support.inference_engine import EngineBench

DIGEST = bytes(32)


class Clock:
    """Seconds since some moment, as the test moves them."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def kept_in(folder: Path, keep_bytes: int = 1000, clock: Clock | None = None) -> KeptResults:
    return KeptResults(folder, keep_s=600, keep_bytes=keep_bytes, clock=clock or Clock())


def request(prompt: str, request_id: str = "an/id") -> PictureRequest:
    body = {"modelInputs": {"prompt": prompt}, "callInputs": {"startRequestId": request_id}}
    return read_request(json.dumps(body).encode())


def test_a_result_outlives_the_server(tmp_path: Path) -> None:
    """The next process answers the same request from the disk and draws nothing; another request is drawn."""
    drawn: list[str] = []

    def submit(wanted: PictureRequest) -> Ticket:
        drawn.append(wanted.inputs.prompt or "")
        return Ticket(wanted)

    async def first() -> None:
        kept = kept_in(tmp_path / "results")
        IdempotencyStore(submit, lambda _: None, kept).join(request("a cat")).finish(Outcome(b"the result"))
        kept.close()

    async def second() -> None:
        store = IdempotencyStore(submit, lambda _: None, kept_in(tmp_path / "results"))
        outcome = store.join(request("a cat")).outcome
        assert outcome is not None
        assert outcome.body == b"the result"
        other = IdempotencyStore(submit, lambda _: None, kept_in(tmp_path / "results")).join(request("a dog"))
        assert other.outcome is None

    asyncio.run(first())
    asyncio.run(second())
    assert drawn == ["a cat", "a dog"]


def test_only_its_user_reads_a_result(tmp_path: Path) -> None:
    """Pictures are private."""
    kept = kept_in(tmp_path / "results")
    kept.keep("id", DIGEST, b"body")
    kept.close()
    (file,) = (tmp_path / "results").iterdir()
    assert file.stat().st_mode & 0o077 == (tmp_path / "results").stat().st_mode & 0o077 == 0


def test_results_go_with_time_and_by_their_size(tmp_path: Path) -> None:
    """What is too old is not found; beyond the bound the oldest goes first."""
    clock = Clock()
    kept = kept_in(tmp_path, clock=clock)
    for number in range(4):
        kept.keep(f"id-{number}", DIGEST, bytes(300))
    kept.forget("id-3")
    kept.close()
    assert [kept.find(f"id-{number}", DIGEST) is not None for number in range(4)] == [False, True, True, False]
    clock.now_s = 601
    assert kept.find("id-2", DIGEST) is None


def test_what_was_left_goes_in_time(tmp_path: Path) -> None:
    """A server that draws nothing still deletes what the one before it has left, ten minutes after its own start."""
    before = kept_in(tmp_path)
    before.keep("id", DIGEST, b"body")
    before.close()
    clock = Clock()
    kept = kept_in(tmp_path, clock=clock)
    kept.drop_old()
    assert kept.find("id", DIGEST) == b"body"
    clock.now_s = 601
    kept.drop_old()
    kept.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("jump_s", [-3e8, 3e8])
def test_a_clock_that_is_set_costs_no_picture(tmp_path: Path, jump_s: float) -> None:
    """A machine without a clock of its own learns the time after its start: what lies there is as new as it was."""
    before = kept_in(tmp_path)
    before.keep("id", DIGEST, b"body")
    before.close()
    (file,) = tmp_path.iterdir()
    os.utime(file, (time.time() + jump_s,) * 2)
    kept = kept_in(tmp_path)
    kept.drop_old()
    kept.close()
    assert kept.find("id", DIGEST) == b"body"


def test_what_the_space_has_is_kept_no_longer(tmp_path: Path) -> None:
    """Nobody's prompt lies on the disk of a machine that is off; what the Space has not got is found by the next
    process, after an orderly end too.
    """
    ids = ("has-it", "has-not", "cancelled")

    async def story() -> None:
        kept = kept_in(tmp_path)
        store = IdempotencyStore(Ticket, lambda _: None, kept)
        for one in ids:
            store.join(request("a cat", one)).finish(Outcome(one.encode()))
        store.acknowledge("has-it")
        assert not store.cancel("cancelled"), "it was done already"
        kept.close()
        store = IdempotencyStore(Ticket, lambda _: None, kept_in(tmp_path))
        outcomes = [store.join(request("a cat", one)).outcome for one in ids]
        assert [outcome and outcome.body for outcome in outcomes] == [None, b"has-not", None]

    asyncio.run(story())


def test_two_processes_with_one_folder_leave_each_other_theirs(tmp_path: Path) -> None:
    """The end of one takes nothing from the other."""
    one, other = kept_in(tmp_path), kept_in(tmp_path)
    other.keep("id", DIGEST, b"body")
    other.close()
    one.drop_old()
    one.close()
    assert one.find("id", DIGEST) == b"body"


def test_a_disk_that_takes_nothing_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The server goes on with its memory."""
    (tmp_path / "file").write_text("")
    kept = kept_in(tmp_path / "file" / "results")
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            kept.keep(f"id-{number}", DIGEST, b"body")
        kept.close()
    assert caplog.text.count("results are kept in memory alone") == 1
    assert kept.find("id-1", DIGEST) is None


@pytest.mark.parametrize("told", ["at the end of it", "just before it"])
def test_what_the_engine_has_finished_outlives_an_end(tmp_path: Path, told: str) -> None:
    """SIGTERM without a line, in the last moment of a drawing: the picture is written, the next process has it.

    A server that may be waited for lets the drawing under way end first.
    """

    async def first() -> None:
        bench, kept = EngineBench(), kept_in(tmp_path, keep_bytes=10**6)
        store = IdempotencyStore(bench.dispatcher.submit, bench.dispatcher.cancel, kept)
        await bench.ready()
        ticket = store.join(request("a cat"))
        store.leave(ticket)
        if told == "at the end of it":
            ending = asyncio.create_task(bench.dispatcher.finish(60))
            await bench.draw("a cat")
            await ending
        else:
            await bench.draw("a cat")
        bench.dispatcher.close()
        await bench.dispatcher.finish_encoding()
        kept.close()

    async def second() -> None:
        store = IdempotencyStore(Ticket, lambda _: None, kept_in(tmp_path, keep_bytes=10**6))
        outcome = store.join(request("a cat")).outcome
        assert outcome is not None
        assert "image_base64" in json.loads(outcome.body)

    asyncio.run(first())
    asyncio.run(second())


def test_only_a_server_that_is_waited_for_finishes_what_nobody_follows() -> None:
    """Its Space has no other worker and waits for a minute; otherwise another one draws by now."""
    store = IdempotencyStore(Ticket, lambda _: None)
    assert not store.is_waited_for
    store.wait_for_clients(75)
    assert store.is_waited_for
    store.wait_for_clients(10)
    assert not store.is_waited_for
