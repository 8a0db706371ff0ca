"""One line's run: visitors ask for pictures through it while it is cut, and its ends are frozen and killed."""

import datetime
import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._line_programs import Programs
from benchmarks._line_story import story
from benchmarks._line_tally import AwaitedEvent, Tally, Visit
from benchmarks._link import Quality
from benchmarks._namespaces import TwoMachines

VISITORS = 3  # at once
_START_S = 180.0
_EVENT_S = 180.0  # for a visitor's next event after the line is back; then the picture counts as lost
_MID_PICTURE_S = 10.0
_SIDES_PX = (64, 128, 192, 256, 384)
_PICTURE_S = 3.0  # no picture is so large that its bytes alone take longer on this line
_ENDS = ("picture", "sentence", "wrong")


class LineRun:
    """`requests` pictures over one line, `run` returns what came of them. `frozen_s`: how long an end stands still."""

    def __init__(
        self, number: int, quality: Quality, *, requests: int, seed: int, frozen_s: float, folder: Path, tls: Path
    ) -> None:
        self.quality = quality
        self._seed = f"{seed} {quality}"
        self._random = random.Random(self._seed)  # of the troubles
        self._requests, self._frozen_s = requests, frozen_s
        self._machines = TwoMachines(f"lines{os.getpid()}-{number}", quality, seed)
        self._tally = Tally()
        self._jobs: dict[str, str] = {}  # by prompt
        self._delivered: Counter[str] = Counter()  # pictures, by prompt
        self._undone: Counter[str] = Counter()  # drawings that were gone with their worker, by prompt
        self._visits: dict[str, Visit] = {}
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._folder, self._log = folder, folder / "troubles.log"
        self._log.touch()
        self._programs = Programs(self._machines, folder, tls, self._hear)

    def run(self) -> Tally:
        """Raises: RuntimeError when the programs do not come up."""
        self._programs.start()
        self._programs.wait_ready(_START_S)
        if not self._programs.connected.wait(_START_S):
            raise RuntimeError(f"{self.quality}: no worker connected within {_START_S:g} s")
        asking = [threading.Thread(target=self._visit, daemon=True) for _ in range(VISITORS)]
        for thread in asking:
            thread.start()
        self._trouble(asking)
        for thread in asking:
            thread.join()
        self._count_drawn()
        return self._tally

    def _count_drawn(self) -> None:
        """See "drawn twice" in `lines.py`."""
        for prompt, times in Counter(prompt for _, prompt in self._programs.drawn()).items():
            if times - self._undone[prompt] > 1:
                self._tally.drawn_twice.append(prompt)
            elif times > 1:
                self._tally.ended_with_worker.append(prompt)
        self._tally.delivered_twice += [prompt for prompt, times in self._delivered.items() if times > 1]

    def _count_undone(self) -> None:
        """The worker was just killed: what its engine had finished and nobody had yet, not even its disk, is gone."""
        drawn = Counter(prompt for _, prompt in self._programs.drawn())
        with self._changed:
            for prompt, times in drawn.items():
                there = self._delivered[prompt] or self._programs.is_kept(self._jobs.get(prompt, ""))
                if prompt in self._visits and not there:
                    self._undone[prompt] = times
                    self._note(f"request {prompt}: its finished picture was gone with the worker")

    def close(self) -> None:
        """Ends the programs, and takes the namespaces away."""
        self._programs.close()
        self._machines.close()

    # The visitors

    def _visit(self) -> None:
        while (number := next(self._numbers)) <= self._requests:
            visit = Visit(f"{number}", self._ask(number))
            while self._draw(visit):  # the Space was killed, and its visitor asks the next one
                visit = Visit(f"{visit.prompt}+", visit.ask)
                self._tally.asked_again += 1
            with self._changed:
                self._count(visit)

    def _ask(self, number: int) -> dict[str, Any]:
        chance = random.Random(f"{self._seed} {number}")
        largest_px = (self.quality.mbit_s * 1e6 / 8 * _PICTURE_S / 3) ** 0.5
        side = chance.choice([px for px in _SIDES_PX if px <= largest_px])
        return {"seed": number, "num_inference_steps": chance.randint(4, 40), "width": side, "height": side}

    def _draw(self, visit: Visit) -> bool:
        """Returns whether the Space was killed meanwhile."""
        visit.ask = {**visit.ask, "prompt": visit.prompt}
        self._programs.wait_ready(_START_S)
        with self._changed:
            self._visits[visit.prompt] = visit
            visit.asked_s = time.monotonic()
            space = self._programs.space
        if not self._programs.ask(**visit.ask):
            return True
        with self._changed:
            until_s = visit.asked_s + 2 * _EVENT_S + self._frozen_s
            while not visit.outcome and self._programs.space is space:
                if not self._changed.wait(1.0) and time.monotonic() > until_s:
                    visit.outcome, visit.words = "lost", "no end came"
            del self._visits[visit.prompt]
            return not visit.outcome

    def _count(self, visit: Visit) -> None:
        tally = self._tally
        match visit.outcome:
            case "picture":
                tally.pictures += 1
                tally.picture_s.append(time.monotonic() - visit.asked_s)
            case "sentence":
                tally.sentences[visit.words] += 1
            case _:
                tally.lost.append(f"{visit.prompt}: {visit.words}")

    def _hear(self, told: dict[str, Any]) -> None:
        with self._changed:
            prompt, kind, at_s = told["prompt"], told["kind"], told["at_s"]
            self._delivered[prompt] += kind == "picture"
            if kind == "job":
                self._jobs[prompt] = told["words"]
                self._note(f"request {prompt}: job {told['words']}")
            visit = self._visits.get(prompt)
            if visit is None or kind == "job":
                return
            if kind != "step" or not visit.begun:
                self._note(f"request {prompt}: {kind} {told['words']}")
            visit.begun = visit.begun or kind == "step"
            if kind in _ENDS:
                visit.outcome, visit.words = ("lost" if kind == "wrong" else kind), told["words"]
            if kind != "away" and visit.next_event is not None and at_s > visit.next_event.counts_from_s:
                visit.next_event.times.append(at_s - visit.next_event.since_s)
                self._note(f"request {visit.prompt}: {kind} {at_s - visit.next_event.since_s:.2f} s after it")
                visit.next_event = None
            self._changed.notify_all()

    # What happens to them

    def _trouble(self, asking: list[threading.Thread]) -> None:
        """One kind of trouble after another, in mid-picture, until the visitors are done."""
        kinds: list[Callable[[], None]] = [
            self._cut,
            self._change_address,
            self._kill_worker,
            self._freeze_worker,
            self._freeze_space,
            self._kill_space,
            self._end_worker,
        ]
        every = max(2, min(12, self._requests // len(kinds)))
        due = 1
        while any(thread.is_alive() for thread in asking):
            self._random.shuffle(kinds)
            for kind in kinds:
                with self._changed:
                    while self._done() < due and any(thread.is_alive() for thread in asking):
                        self._changed.wait(0.2)
                if not any(thread.is_alive() for thread in asking):
                    return
                due = self._done() + every
                self._wait_mid_picture()
                name = kind.__name__.strip("_").replace("_", " ")
                self._note(name)
                kind()
                self._tally.incidents[name] += 1
                self._wait_for_events()

    def _note(self, what: str) -> None:
        with self._log.open("a") as log:
            log.write(f"{datetime.datetime.now():%H:%M:%S.%f} {what}\n")

    def _done(self) -> int:
        tally = self._tally
        return tally.pictures + tally.sentences.total() + len(tally.lost)

    def _wait_mid_picture(self) -> None:
        until_s = time.monotonic() + _MID_PICTURE_S
        with self._changed:
            while time.monotonic() < until_s and not any(visit.begun for visit in self._visits.values()):
                self._changed.wait(0.05)
        time.sleep(self._random.uniform(0.0, 1.5))

    def _cut(self) -> None:
        self._machines.cut(True)
        time.sleep(self._random.uniform(1.0, 12.0))
        self._machines.cut(False)
        self._back(self._tally.after_line_s["cut"])

    def _change_address(self) -> None:
        self._machines.change_address()
        self._back(self._tally.after_line_s["another address"], under_way_s=self.quality.round_trip_ms / 2000)

    def story(self, number: int) -> list[str]:
        """What befell this request, and its line meanwhile."""
        jobs = {prompt: job for prompt, job in self._jobs.items() if prompt.rstrip("+") == str(number)}
        return story(self._folder, jobs, [(at_s, prompt) for at_s, prompt in self._programs.drawn() if prompt in jobs])

    def _freeze_worker(self) -> None:
        self._freeze("worker frozen", self._programs.worker)

    def _freeze_space(self) -> None:
        self._freeze("Space frozen", self._programs.space)

    def _freeze(self, kind: str, program: Any) -> None:
        program.send(signal.SIGSTOP)
        time.sleep(self._frozen_s)
        program.send(signal.SIGCONT)
        self._back(self._tally.after_line_s[kind])

    def _kill_worker(self) -> None:
        self._programs.worker.end()
        self._count_undone()
        self._programs.start_worker()
        self._back(self._tally.after_start_s)

    def _end_worker(self) -> None:
        if self._programs.worker.end(signal.SIGTERM):
            self._note("the worker had to be killed")
            self._count_undone()
        self._programs.start_worker()
        self._back(self._tally.after_start_s)

    def _kill_space(self) -> None:
        self._programs.ready.clear()
        self._programs.space.end()
        with self._changed:
            self._programs.start_space()
            self._changed.notify_all()  # the visitors see that theirs is no more
        self._programs.wait_ready(_START_S)
        begun = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: bool(self._visits), 5)
        self._back(self._tally.after_start_s, begun)

    def _back(self, times: list[float], since_s: float | None = None, under_way_s: float = 0.0) -> None:
        """From now on, or since then, everybody who waits should soon hear something. `under_way_s`: what comes sooner
        was sent before.
        """
        since_s = since_s or time.monotonic()
        with self._changed:
            for visit in self._visits.values():
                if not visit.outcome:
                    visit.next_event = AwaitedEvent(since_s, since_s + under_way_s, times)

    def _wait_for_events(self) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: not any(visit.next_event and not visit.outcome for visit in self._visits.values()), _EVENT_S
            )
