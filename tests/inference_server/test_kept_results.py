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

DIGEST = bytes(32)


def kept_in(folder: Path, keep_bytes: int = 1000) -> KeptResults:
    return KeptResults(folder, keep_s=600, keep_bytes=keep_bytes)


def request(prompt: str) -> PictureRequest:
    body = {"modelInputs": {"prompt": prompt}, "callInputs": {"startRequestId": "an/id"}}
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
    """What is too old is neither found nor left there; beyond the bound the oldest goes first."""
    kept = kept_in(tmp_path)
    for number in range(4):
        kept.keep(f"id-{number}", DIGEST, bytes(300))
    kept.forget("id-3")
    kept.close()
    assert [kept.find(f"id-{number}", DIGEST) is not None for number in range(4)] == [False, True, True, False]
    for file in tmp_path.iterdir():
        os.utime(file, (time.time() - 601,) * 2)
    assert kept.find("id-2", DIGEST) is None
    kept_in(tmp_path).close()
    assert not list(tmp_path.iterdir())


def test_what_was_left_goes_in_time(tmp_path: Path) -> None:
    """A server that draws nothing still deletes what the one before it has left, once that is too old."""
    before = kept_in(tmp_path)
    before.keep("id", DIGEST, b"body")
    before.close()
    kept = kept_in(tmp_path)
    (file,) = tmp_path.iterdir()
    os.utime(file, (time.time() - 601,) * 2)
    kept.drop_old()
    kept.close()
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_by_a_server_that_ends(tmp_path: Path) -> None:
    """Nobody's prompt lies on the disk of a machine that is off."""
    kept = kept_in(tmp_path / "results")
    kept.end()
    kept = kept_in(tmp_path / "results")
    kept.keep("id", DIGEST, b"body")
    kept.end()
    assert not list((tmp_path / "results").iterdir())


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
