"""The workers' key: what comes of many wrong ones."""

import threading
import time

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from backends import worker_door
from backends.workers import Workers
from tests.support.processes import wait_until
from tests.support.worker_line import DEADLINE_S, KEY, space_side


def new_workers(wait_s: float = DEADLINE_S) -> Workers:
    return Workers(KEY, wait_s=wait_s)


def test_wrong_keys_are_slowed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the eleventh wrong key within a minute on, each waits; the right one never does."""
    monkeypatch.setattr(worker_door, "SLOWED_S", 1.0)
    with space_side(new_workers()) as space:
        url = f"ws://127.0.0.1:{space.port}/worker"
        for _ in range(worker_door.WRONG_KEYS_A_MINUTE):
            with pytest.raises(InvalidStatus):
                connect(url, additional_headers={"X-Worker-Key": "wrong"})
        begun = time.monotonic()
        with pytest.raises(InvalidStatus):
            connect(url, additional_headers={"X-Worker-Key": "wrong"})
        assert time.monotonic() - begun >= 1.0
        with connect(url, additional_headers={"X-Worker-Key": KEY}):
            pass


def test_wrong_keys_do_not_wait_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many wait at a time; one more is refused at once, and the right key never waits."""
    monkeypatch.setattr(worker_door, "SLOWED_S", DEADLINE_S)
    monkeypatch.setattr(worker_door, "SLOWED_MAX", 3)
    monkeypatch.setattr(worker_door, "WRONG_KEYS_A_MINUTE", 1)
    workers = new_workers()
    with space_side(workers) as space:
        url = f"ws://127.0.0.1:{space.port}/worker"

        def knock() -> None:
            with pytest.raises((InvalidStatus, OSError, EOFError, TimeoutError)):
                connect(url, additional_headers={"X-Worker-Key": "wrong"})

        with pytest.raises(InvalidStatus):
            connect(url, additional_headers={"X-Worker-Key": "wrong"})
        waiting = [threading.Thread(target=knock, daemon=True) for _ in range(3)]
        for thread in waiting:
            thread.start()
        wait_until("three to wait", lambda: workers._door._slowed == 3)
        begun = time.monotonic()
        with pytest.raises(InvalidStatus):
            connect(url, additional_headers={"X-Worker-Key": "wrong"})
        with connect(url, additional_headers={"X-Worker-Key": KEY}):
            pass
        assert time.monotonic() - begun < DEADLINE_S / 2
