"""Fifteen faults, each struck at a moment that a seed decides, on the real chain: what comes of the pictures.

`make faults SEEDS=100` prints a table, faults by outcome, with the time until a picture is drawn again, and in how many
cases it struck anything at all (a Fair that fails is not always asked). Goal: no hang, no wrong picture, no double
start, nothing left over. A line for each case that misses it names its seed; `--fault NAME --seed N` tries that one
again. Exit status 1: some case missed it.

What is real: page, Fair server, tunnel, inference server. What is not: the model (noise, known byte by byte), and the
network, which is this machine's own with a toxiproxy in it. A half-open line is one on which nothing comes any more;
the clock that jumps is Fair's, as it tells its time to the page; the full disk is the Fair server's (needs root).
"""

import argparse
import concurrent.futures
import contextlib
import datetime
import logging
import queue
import random
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks._fault_lane import HANG_S, Asked, Lane, running_lane
from benchmarks._faults import FAULTS, Fault, NotRefused
from benchmarks._machine import RESULTS
from benchmarks._toxiproxy import Toxiproxy
from network.tunnel import PROGRAM, find_program
from tools.get_toxiproxy import find_toxiproxy

_ROOT = Path(__file__).resolve().parent.parent
_LANES = 4
_STRIKES_WITHIN_S = 2.0
_WELL_S = 200.0
_COLUMNS = ("picture", "clear error", "cancelled", "hang", "wrong picture", "double start", "left-over")
_BAD = _COLUMNS[3:]


@dataclass
class Case:
    """One fault with one seed: how often what came of it, the time to recover, and what to tell of it."""

    fault: Fault
    seed: int
    outcomes: Counter[str] = field(default_factory=Counter)
    recovered_s: float = 0.0
    struck: int = 0
    told: list[str] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        return not any(self.outcomes[name] for name in _BAD)

    def note(self, outcome: str) -> None:
        """Counts one drawing's outcome."""
        if outcome.startswith("error: "):
            self.told.append(outcome)
            outcome = "clear error"
        self.outcomes[outcome] += 1


def try_fault(lane: Lane, fault: Fault, seed: int) -> Case:
    """Strikes a lane that is well, waits for what comes of it, and until it is well again."""
    case, chance = Case(fault, seed), random.Random(f"{fault.name} {seed}")
    if fault.cold:
        lane.end_all()
        lane.restart_page()
    elif not _is_well(lane, chance):
        case.told.append("it was not well before")
    known, struck = [str(row["id"]) for row in lane.rows()], lane.struck
    asked = [] if fault.after else _ask(lane, fault, chance)
    time.sleep(0 if fault.cold else chance.uniform(0, _STRIKES_WITHIN_S))
    mend = None
    try:
        mend = fault.strike(lane, chance)
    except NotRefused as error:
        case.told.append(f"not refused: {error}")
        case.outcomes["wrong picture"] += 1
    asked += _ask(lane, fault, chance) if fault.after else []
    leaving = _leave(asked, fault, chance)
    if mend:
        time.sleep(chance.uniform(*fault.lasts_s))
        mend()
    mended = time.monotonic()
    well = _is_well(lane, chance)
    case.recovered_s = time.monotonic() - mended
    if not well:
        case.outcomes["hang"] += 1
        case.told.append(f"no picture for {case.recovered_s:.0f} s after it was over")
    leaving.join()
    for one in asked:
        case.note(one.outcome(mended + HANG_S))
    case.struck = lane.struck - struck + len(asked) * fault.cold
    if not case.struck:
        case.told.append("it struck nothing: another seed may")
    case.outcomes["double start"] += lane.double_starts(known)
    left = lane.left_overs()
    case.outcomes["left-over"] += len(left)
    case.told += left
    return case


def _ask(lane: Lane, fault: Fault, chance: random.Random) -> list[Asked]:
    return [lane.ask(chance, chance.randint(1, fault.steps)) for _ in range(fault.pictures)]


def _leave(asked: list[Asked], fault: Fault, chance: random.Random) -> threading.Thread:
    """Some visitors cancel while they wait."""
    leaving = [(chance.uniform(0, 4), one) for one in asked if chance.random() < fault.leaving]

    def leave() -> None:
        begun = time.monotonic()
        for after_s, one in sorted(leaving, key=lambda row: row[0]):
            time.sleep(max(0.0, begun + after_s - time.monotonic()))
            one.job.cancel()

    thread = threading.Thread(target=leave, daemon=True)
    thread.start()
    return thread


def _is_well(lane: Lane, chance: random.Random) -> bool:
    """Asks for a picture until one is drawn; False where none is in time."""
    deadline = time.monotonic() + _WELL_S
    while time.monotonic() < deadline:
        if lane.ask(chance, steps=1).outcome(deadline) == "picture":
            return True
        time.sleep(0.2)
    return False


def main() -> int:
    """Prints the table; the exit status."""
    options = _parser().parse_args()
    logging.disable(logging.CRITICAL)
    warnings.filterwarnings("ignore", message="Unverified HTTPS request")
    tunnel, toxiproxy = find_program(_ROOT), find_toxiproxy()
    if tunnel is None or toxiproxy is None:
        print(f"The faults need {PROGRAM} and toxiproxy: `make faults` gets them.", file=sys.stderr)
        return 2
    faults = [fault for fault in FAULTS if not options.fault or fault.name in options.fault]
    seeds = [options.seed] if options.seed is not None else range(1, options.seeds + 1)
    waiting: queue.SimpleQueue[tuple[Fault, int]] = queue.SimpleQueue()
    for seed in seeds:
        for fault in faults:
            waiting.put((fault, seed))
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, contextlib.ExitStack() as closing:
        proxy = Toxiproxy(toxiproxy, Path(folder, "toxiproxy.log"))
        closing.callback(proxy.close)
        lanes = min(options.lanes, waiting.qsize())
        with concurrent.futures.ThreadPoolExecutor(lanes) as pool:
            running = [
                pool.submit(_run_lane, Path(folder, str(number)), tunnel, proxy, number, waiting)
                for number in range(lanes)
            ]
            cases = [case for lane in running for case in lane.result()]
    table = _table(faults, cases, time.monotonic() - begun)
    print(table)
    if options.result:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"faults-{datetime.datetime.now(datetime.UTC).date().isoformat()}.txt"
        path.write_text(f"{table}\n", encoding="utf-8")
    return int(not all(case.is_well for case in cases))


def _run_lane(
    folder: Path, tunnel: str, proxy: Toxiproxy, number: int, waiting: "queue.SimpleQueue[tuple[Fault, int]]"
) -> list[Case]:
    cases: list[Case] = []
    with running_lane(folder, tunnel, proxy, number) as lane:
        while True:
            try:
                fault, seed = waiting.get_nowait()
            except queue.Empty:
                return cases
            cases.append(case := try_fault(lane, fault, seed))
            bad = "" if case.is_well else "   MISSED"
            counts = ", ".join(f"{count} {name}" for name, count in case.outcomes.items() if count)
            print(f"{fault.name}, seed {seed}: {counts}; well after {case.recovered_s:.1f} s{bad}", flush=True)
            for line in dict.fromkeys(case.told):
                print(f"    {line[:400]}", flush=True)


def _table(faults: list[Fault], cases: list[Case], took_s: float) -> str:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = [f"{today}; {len(cases)} cases, {took_s / 60:.0f} min (python -m benchmarks.faults)"]
    heads = "".join(f"{name:>14}" for name in _COLUMNS)
    lines.append(f"{'fault':24}{'cases':>6}{'struck':>7}{heads}{'well after':>13}{'at most':>9}")
    for fault in faults:
        own = [case for case in cases if case.fault is fault]
        if not own:
            continue
        sums: Counter[str] = Counter()
        for case in own:
            sums.update(case.outcomes)
        counts = "".join(f"{sums[name]:14}" for name in _COLUMNS)
        struck = sum(case.struck > 0 for case in own)
        times = [case.recovered_s for case in own]
        lines.append(
            f"{fault.name:24}{len(own):6}{struck:7}{counts}{statistics.median(times):11.1f} s{max(times):7.1f} s"
        )
    lines.append(f"{sum(case.is_well for case in cases)} of {len(cases)} cases as they should be")
    lines += [f"missed: --fault {case.fault.name!r} --seed {case.seed}" for case in cases if not case.is_well]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks.faults", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=2, help="of each fault (2)")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--fault", action="append", metavar="NAME", help="this one alone; may be repeated")
    parser.add_argument("--lanes", type=int, default=_LANES, help=f"chains side by side ({_LANES})")
    parser.add_argument("--result", action="store_true", help="keep the table in benchmarks/results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
