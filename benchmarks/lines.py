"""A worker's line at home, good and bad: what comes of the pictures when it is cut, and its ends are frozen and killed.

Nine lines at once, each with a Space and a worker of its own, the real programs, in network namespaces: `make lines
REQUESTS=1000 SEED=1`. It needs root. Exit status 1: a picture was lost, or drawn twice.

Lost: a visitor got neither a picture nor a sentence, or a wrong picture. Drawn twice: the engine ran to the end of one
request a second time though its finished picture was there, on the worker's disk or with the Space, or a visitor got
two pictures. What was finished in the moments before its worker was killed, and stood on no disk yet, is drawn again
and counted apart. A Space that was killed has forgotten its visitors: they ask anew, with another prompt.

The next event after the line is back: 2 s is the goal until every visitor who waits reads something. A new line takes
two and a half round trips until the Space can say that its worker is back (TCP, TLS, and half a one for the worker's
word), and each packet of these that is lost costs a second or more: at 800 ms of round trip and 25 % of loss nobody
keeps to 2 s. `--line 4 --only 12` tells what befell one request.
"""

import argparse
import datetime
import itertools
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks._certificate import certify
from benchmarks._line_run import LineRun
from benchmarks._line_tally import Tally
from benchmarks._link import Quality
from benchmarks._machine import RESULTS
from benchmarks._namespaces import SPACE_ADDRESS, missing

LINES = (
    Quality(100, 16, 0.1),
    Quality(25, 40, 1),
    Quality(8, 90, 2),
    Quality(3, 200, 3),
    Quality(1.5, 300, 5),
    Quality(0.8, 450, 8),
    Quality(25, 600, 1.5),
    Quality(0.5, 450, 12),
    Quality(0.256, 800, 25),
)
_FROZEN_S, _FROZEN_MIN_S = 60.0, 16.0  # longer than either end believes in a silent line
_SCALED_BELOW = 2000  # requests
_GOAL_S = 2.0
_LOOK_S = 0.2  # how late an end may be noticed


def main() -> int:
    """Prints the table; the exit status."""
    options = _parser().parse_args()
    if reason := missing():
        print(f"The lines cannot be tried: {reason}.", file=sys.stderr)
        return 2
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # nothing is broken off: what was begun is taken away orderly
        signal.signal(number, lambda *_: ending.set())
    lines = [LINES[number] for number in options.line or range(len(LINES))]
    frozen_s = max(_FROZEN_MIN_S, _FROZEN_S * min(1.0, options.requests / _SCALED_BELOW))
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lines-") as folder:
        tallies = _run(lines, options, frozen_s, Path(options.keep or folder), ending)
    if tallies is None:
        return 1
    table = _table(lines, tallies, options, frozen_s, time.monotonic() - begun)
    print(table)
    if options.result:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"lines-{datetime.datetime.now(datetime.UTC).date().isoformat()}.txt"
        path.write_text(f"{table}\n", encoding="utf-8")
        print(f"kept in {path}")
    return int(any(tally.lost or tally.drawn_twice or tally.delivered_twice for tally in tallies))


def _run(
    lines: list[Quality], options: argparse.Namespace, frozen_s: float, folder: Path, ending: threading.Event
) -> list[Tally] | None:
    """None: it was ended. Raises: RuntimeError."""
    tls = folder / "tls"
    tls.mkdir(parents=True, exist_ok=True)
    certify(tls, [SPACE_ADDRESS])
    share, more = divmod(options.requests, len(lines))
    runs: list[LineRun] = []
    try:
        for number, quality in enumerate(lines):
            if ending.is_set():
                return None
            place = folder / f"line{number}"
            place.mkdir(exist_ok=True)
            requests = share + (number < more)
            runs.append(
                LineRun(number, quality, requests=requests, seed=options.seed, frozen_s=frozen_s, folder=place, tls=tls)
            )
        tallies = _side_by_side(runs, ending)
        if options.only is not None:
            for run in runs:
                print("\n".join([f"{run.quality}, request {options.only}:", *run.story(options.only)]))
        return tallies
    finally:
        for run in runs:
            run.close()


def _side_by_side(runs: list[LineRun], ending: threading.Event) -> list[Tally] | None:
    """On threads that an end does not wait for. None: it was ended. Raises: RuntimeError, the first one's."""
    tallies: dict[int, Tally] = {}
    failures: list[Exception] = []
    over = threading.Semaphore(0)

    def run(number: int) -> None:
        try:
            tallies[number] = runs[number].run()
        except Exception as error:
            failures.append(error)
        finally:
            over.release()

    for number in range(len(runs)):
        threading.Thread(target=run, args=(number,), daemon=True).start()
    left = len(runs)
    while left and not ending.is_set():
        left -= over.acquire(timeout=_LOOK_S)
    if ending.is_set():
        return None
    if failures:
        raise failures[0]
    return [tallies[number] for number in range(len(runs))]


def _table(
    lines: list[Quality], tallies: list[Tally], options: argparse.Namespace, frozen_s: float, took_s: float
) -> str:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    rows = [
        f"Pictures over nine lines, {options.requests} requests, seed {options.seed}; {today}, {os.cpu_count()} cores, "
        f"{took_s / 60:.0f} min (make lines)",
        "Line: Mbit/s, ms of round trip, % of packets lost each way, in a user-space link between network namespaces.",
        f"Troubles in turn, in mid-picture: a cut of 1 to 12 s, another address, either end frozen for {frozen_s:g} s, "
        "either killed, the worker ended.",
        f"{'line':>14} {'pictures':>8} {'sentences':>9} {'lost':>5} {'twice':>5} {'troubles':>8} {'asked again':>11} "
        f"{'picture':>8} {'next event after the line is back':>34} {'after a start':>16}",
        f"{'':>14} {'':>8} {'':>9} {'':>5} {'':>5} {'':>8} {'':>11} {'p50 s':>8} {'within 2 s; p50, p90, max s':>34} "
        f"{'p50, max s':>16}",
    ]
    for quality, tally in zip(lines, tallies, strict=True):
        after_line_s = [*itertools.chain(*tally.after_line_s.values())]
        next_event = f"{_in_time(after_line_s)}; {_figures(after_line_s, 50, 90, 100)}"
        rows.append(
            f"{quality!s:>14} {tally.pictures:8} {tally.sentences.total():9} {len(tally.lost):5} "
            f"{len(tally.drawn_twice):5} {tally.incidents.total():8} {tally.asked_again:11} "
            f"{_figures(tally.picture_s, 50):>8} {next_event:>34} {_figures(tally.after_start_s, 50, 100):>16}"
        )
    for kind in sorted({kind for tally in tallies for kind in tally.after_line_s}):
        times = [one for tally in tallies for one in tally.after_line_s[kind]]
        rows.append(
            f"next event after: {kind}: {_in_time(times)} in time; p50, p90, max {_figures(times, 50, 90, 100)} s"
        )
    for quality, tally in zip(lines, tallies, strict=True):
        rows += [f"{quality}: sentence ({times}): {words}" for words, times in tally.sentences.items()]
        rows += [f"{quality}: lost: {lost}" for lost in tally.lost]
        rows += [f"{quality}: drawn twice: request {prompt}" for prompt in tally.drawn_twice]
        rows += [f"{quality}: two pictures: request {prompt}" for prompt in tally.delivered_twice]
    ended = sum(len(tally.ended_with_worker) for tally in tallies)
    rows.append(f"worker killed between the last step and the picture on its disk, and drawn again: {ended}")
    lost, twice = (sum(len(getattr(tally, name)) for tally in tallies) for name in ("lost", "drawn_twice"))
    after_line_s = [one for tally in tallies for times in tally.after_line_s.values() for one in times]
    rows.append(
        f"lost {lost}, drawn twice {twice} (goals: 0 and 0); the next event at most {_GOAL_S:g} s after the line was "
        f"back: {_in_time(after_line_s)} times (goal: all)"
    )
    return "\n".join(rows)


def _in_time(values: list[float]) -> str:
    return f"{sum(one <= _GOAL_S for one in values)} of {len(values)}"


def _figures(values: list[float], *percents: int) -> str:
    if not values:
        return "-"
    ordered = sorted(values)
    shown = [
        statistics.median(ordered) if percent == 50 else ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
        for percent in percents
    ]
    return ", ".join(f"{value:.1f}" for value in shown)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lines", description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--line", type=int, action="append", help="only this one, from 0; may be given again")
    parser.add_argument("--only", type=int, metavar="REQUEST", help="tell what befell this one")
    parser.add_argument("--result", action="store_true", help="keep the table in benchmarks/results")
    parser.add_argument("--keep", help="a folder for the programs' logs, which stay")
    return parser


if __name__ == "__main__":
    sys.exit(main())
