"""During a redeploy the Space's old and new process overlap: the newer one's services are the ones that stay.

`OVERLAPS=50` in the environment runs more rounds of it than `make test` does.
"""

import dataclasses
import json
import os
import random
import subprocess
import sys
import threading
import time

import pytest

from fair_services import ChainSettings, Role
from tests.support.fair_servers import DEADLINE_S
from tests.support.processes import REPOSITORY, wait_until
from tests.support.reconcile_bench import Bench, chain_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROUNDS = int(os.environ.get("OVERLAPS", "2"))
HOUR_S = 3600.0


class SpaceProcess:
    """A process of the Space; `answers`: what came of each time that it was asked."""

    def __init__(self, bench: Bench, chain: ChainSettings, clock_off_s: float) -> None:
        settings = {name: value for name, value in dataclasses.asdict(chain).items() if name != "inference"}
        given = {"url": bench.url, "chain": settings, "clock_off_s": clock_off_s}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.space_that_starts", json.dumps(given)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "up"
        self.answers: list[str] = []

    def ask(self) -> str:
        """Asks it to get its chain ready."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.answers.append(json.loads(self._line()))
        return self.answers[-1]

    def close(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the Space's process has ended"
        return line.strip()


@pytest.mark.parametrize("number", range(ROUNDS))
def test_overlap(bench: Bench, number: int) -> None:
    """Whenever the new process comes, and however wrong its clock: its services are there at the end, one of each;
    the old process, asked again and again, has learnt that it is the old one, and changes nothing from then on.
    """
    chain = chain_settings()
    newer = dataclasses.replace(chain, inference_image="inference-2", tunnel_image="rathole")
    seed = random.Random(number)
    clocks = [0.0, seed.choice((HOUR_S, -HOUR_S))]
    seed.shuffle(clocks)
    old = SpaceProcess(bench, chain, clocks[0])
    over = threading.Event()

    def ask_on() -> None:
        while not over.is_set() and old.ask() != "SupersededError":
            time.sleep(0.05)

    asking = threading.Thread(target=ask_on)
    if early := seed.random() < 0.5:
        asking.start()
    new = SpaceProcess(bench, newer, clocks[1])
    try:
        if not early:
            asking.start()
        time.sleep(seed.random() * 0.5)
        wait_until("the new process to be ready", lambda: new.ask() == "ready", 120)
        wait_until("the old one to know", lambda: not asking.is_alive(), 120)
        assert old.ask() == "SupersededError"
        wait_until("the new process to be ready again", lambda: new.ask() == "ready", 120)
        rows = {row.id: row for node in ("home", "vm") for row in bench.client().containers(node) or [] if row.alive}
        assert sorted(str(row.role) for row in rows.values()) == sorted(Role)
        (inference,) = (row for row in rows.values() if row.role == Role.INFERENCE)
        assert inference.image == "inference-2"
        before = dict(rows)
        assert old.ask() == "SupersededError"
        after = {row.id for node in ("home", "vm") for row in bench.client().containers(node) or [] if row.alive}
        assert after == set(before)
    finally:
        over.set()
        for process in (old, new):
            process.close()
        asking.join(DEADLINE_S)
