"""`python -m inference_server pause|resume|status`: what the owner of this machine types, with `docker exec` say.

They leave word in DATA_DIR, where a running server finds it within half a second, and one that starts later as well.
"""

import argparse
import json
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from inference_server.owner_state import OwnerState, Pause, Running, local_day, next_midnight
from inference_server.state_file import StateFile, data_dir

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_S = 366 * 86400


def run(arguments: Sequence[str]) -> int:
    """The exit code: 0 done, 1 DATA_DIR cannot be used, 2 wrong use."""
    logging.basicConfig(stream=sys.stderr, format="inference_server: %(message)s")
    options = _parser().parse_args(arguments)
    file = StateFile(data_dir(os.environ))
    try:
        match options.command:
            case "pause":
                _pause(file, options.duration)
            case "resume":
                _resume(file)
            case "status":
                _status(file.read(), as_json=options.json)
    except OSError as exc:
        why = exc.strerror or str(exc)
        print(f"inference_server: DATA_DIR={file.folder} cannot be used: {why}. Is it the server's?", file=sys.stderr)
        return 1
    return 0


def _pause(file: StateFile, duration_s: int | None) -> None:
    now = time.time()
    until = None if duration_s is None else now + duration_s
    state = file.update(lambda before: before.model_copy(update={"paused": True, "paused_until": until}))
    print(f"Paused {_until(until, now)}.")
    if state.running is not None and state.running.is_alive:
        print("What is being drawn is finished, then the GPU is free.")
    else:
        print(f"{_nobody(file)} One that starts there meanwhile is paused.")


def _resume(file: StateFile) -> None:
    was_paused = file.read().owners_pause(time.time()) is not None
    state = file.update(lambda before: before.model_copy(update={"paused": False, "paused_until": None}))
    print("The pause is over." if was_paused else "It was not paused.")
    running = state.running
    if running is None or not running.is_alive:
        print(_nobody(file))
    elif budget := state.budget_pause(time.time(), running.max_gpu_minutes_per_day):
        print(f"But the GPU minutes of today are used up: nothing is drawn {_until(budget.until, time.time())}.")


def _nobody(file: StateFile) -> str:
    return f"No server runs now that keeps its state in {file.folder}."


def _status(state: OwnerState, *, as_json: bool) -> None:
    now = time.time()
    running = state.running if state.running is not None and state.running.is_alive else None
    today = state.on(local_day(now))
    # Without a running server its bound is the one that it had, which a next one may not have.
    bound = state.running.max_gpu_minutes_per_day if state.running else None
    pause = state.owners_pause(now) or today.budget_pause(now, bound)
    wakes = today.wakes_in_s(state.running.model, now) if state.running else None
    if as_json:
        print(json.dumps(_facts(today, running, pause, wakes, bound, now), indent=1))
        return
    print(_server(running, wakes, now))
    minutes = f"{today.gpu_s / 60:.1f}" + (f" of {bound:g}" if bound is not None else "")
    pictures = f"{today.pictures} picture{'' if today.pictures == 1 else 's'}"
    print(f"Today: {pictures}, {minutes} GPU minutes. Counted anew at {_clock(next_midnight(now), now)}.")
    if pause is None:
        print("Not paused.")
    else:
        used_up = "The GPU minutes of today are used up: nothing" if pause.reason == "budget" else "Paused: nothing"
        print(f"{used_up} new is drawn {_until(pause.until, now)}.")


def _server(running: Running | None, wakes: tuple[int, int] | None, now: float) -> str:
    if running is None:
        return "No server runs."
    engine = f"Engine {running.engine}"
    if running.engine == "asleep" and wakes:
        engine += f", wakes in {wakes[0]} to {wakes[1]} s"
    if running.space is None:
        place = f"Listening since {_clock(running.since, now)}"
    elif running.connected_since is None:
        place = f"Not connected to {running.space}; the log says why"
    else:
        place = f"Connected to {running.space} as {running.name} since {_clock(running.connected_since, now)}"
    return f"{place}.\n{engine}. Model: {running.model}."


def _facts(
    today: OwnerState,
    running: Running | None,
    pause: Pause | None,
    wakes: tuple[int, int] | None,
    bound: float | None,
    now: float,
) -> dict[str, Any]:
    return {
        "running": running is not None,
        "space": running.space if running else None,
        "name": running.name if running else None,
        "connected_since": _utc(running.connected_since if running else None),
        "engine": running.engine if running else None,
        "model": running.model if running else None,
        "wakes_in_s": wakes,
        "pictures_today": today.pictures,
        "gpu_minutes_today": round(today.gpu_s / 60, 2),
        "max_gpu_minutes_per_day": bound,
        "counted_anew_at": _utc(next_midnight(now)),
        "paused": pause is not None,
        "pause_reason": pause.reason if pause else None,
        "paused_until": _utc(pause.until if pause else None),
    }


def _utc(moment: float | None) -> str | None:
    """RFC 3339."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _until(until: float | None, now: float) -> str:
    """`until 20:00 (2 h)`."""
    return "until `resume`" if until is None else f"until {_clock(until, now)} ({_long(until - now)})"


def _clock(moment: float, now: float) -> str:
    """The time of day, in this machine's time zone; with the date unless it is today's or the coming midnight."""
    then, near = datetime.fromtimestamp(moment), local_day(moment) == local_day(now) or moment == next_midnight(now)
    return then.strftime("%H:%M" if near else "%H:%M on %d %b")


def _long(seconds: float) -> str:
    """`90 s`, `45 min`, `2 h`, `3 days`: to two places at most."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.3g} h" if seconds < 72 * 3600 else f"{seconds / 86400:.3g} days"


def _duration(text: str) -> int:
    """`30m`, `2h`, `1d`, `90s` or `1h30m` -> seconds."""
    found = re.findall(r"([0-9]+)([smhd])", text)
    seconds = sum(int(number[:9]) * _UNITS_S[unit] for number, unit in found)
    if "".join(map("".join, found)) != text or not 0 < seconds <= _LONGEST_S:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no time such as 30m, 2h, 1d, 90s or 1h30m, a year at most")
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m inference_server", description="Without a command: draws. See --help of that."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    pause = commands.add_parser("pause", help="draw nothing new and free the GPU; what is being drawn is finished")
    pause.add_argument(
        "--for", dest="duration", type=_duration, metavar="2h", help="30m, 2h, 1d, 90s; without it: until `resume`"
    )
    commands.add_parser("resume", help="end the pause")
    status = commands.add_parser("status", help="tell the server's line, engine, today's counts and the pause")
    status.add_argument("--json", action="store_true", help="the same as one JSON object, times in UTC")
    return parser
