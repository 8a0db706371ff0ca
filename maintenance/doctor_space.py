"""The doctor's look at a Space: token, stage, settings, the log's last error, the page, the workers, the clock."""

import re
import time
from email.utils import parsedate_to_datetime

import requests

from maintenance.build import SpacePage, ask_page, trouble
from maintenance.console import Console
from maintenance.doctor_workers import look_at_workers
from maintenance.env_file import EnvFile, is_known, is_secret
from maintenance.hub import BUILDING, STARTING, Hub, HubError, SpaceState

_CLOCK_S = 60.0
_ERROR = re.compile(r"\b(error|exception|traceback|critical|killed|out of memory)\b|Error\b", re.IGNORECASE)
_WRITE = "`deploy` and `rotate` need a token with write access: `hf auth login`."


def look_at_space(console: Console, space: str, env: EnvFile) -> SpacePage | None:
    """A row for each of its links; returns the page if it answers."""
    hub = Hub()
    try:
        may_read_log = _tell_token(console, hub)
        console.check = "space"
        state = hub.space(space)
    except HubError as error:
        console.check = "hub" if error.status is None or error.status >= 500 else console.check
        console.failure(error)
        return None
    if state is None:
        told = f"there is no Space {space}, or none that this token may see"
        console.row("failed", "space", told, f"python manage.py deploy --space {space}")
        return None
    if not _tell_stage(console, hub, space, state):
        return None
    if may_read_log:
        _tell_settings(console, hub, space, env)
        _tell_log(console, hub, space)
    return _tell_page(console, hub, space, state, env)


def _tell_token(console: Console, hub: Hub) -> bool:
    """Returns whether it may see the Space's settings and log."""
    console.check = "token"
    if hub.token is None:
        told = "nobody is logged in to the Hub here: the Space's log and settings cannot be looked at"
        console.row("warning", "token", told, "Run `hf auth login`.")
        return False
    account = hub.account()
    if account.role == "read":
        told = f"belongs to {account.name} and may only read: the Space's log and settings cannot be looked at"
        console.row("warning", "token", told, _WRITE)
        return False
    console.ok("token", f"belongs to {account.name}")
    return True


def _tell_stage(console: Console, hub: Hub, space: str, state: SpaceState) -> bool:
    """Returns whether the Space serves its page."""
    if state.stage in BUILDING | STARTING:
        console.row("warning", "space", f"{space} is on its way: {state.stage}", "Wait some minutes, look again.")
        return state.stage.startswith("RUNNING_")  # the version before is still served
    error = trouble(hub, space, state)
    if error is None:
        console.ok("space", f"{space} is {state.stage}")
        return True
    asleep = state.stage == "SLEEPING" and not state.is_flagged
    console.row("warning" if asleep else "failed", "space", f"{space}: {error.came_back}", error.next_step)
    return False


def _tell_settings(console: Console, hub: Hub, space: str, env: EnvFile) -> None:
    try:
        secrets, variables = hub.settings(space)
    except HubError:
        return  # only its owner may know them
    there = {name for name in secrets | set(variables) if is_known(name)}
    wanted = set(env.for_the_space())
    if shown := sorted(name for name in there & set(variables) if is_secret(name)):
        told = f"{', '.join(shown)} is a variable of the Space: everybody can read it"
        console.row("failed", "secrets", told, f"Delete it at the Hub, then: python manage.py rotate --space {space}")
    elif missing := sorted(wanted - there):
        told = f"the Space lacks {', '.join(missing)}, which .env has"
        console.row("failed", "secrets", told, f"python manage.py deploy --space {space}")
    elif more := sorted(there - wanted):
        told = f"the Space has {', '.join(more)}, which .env has not"
        console.row("warning", "secrets", told, "Delete at the Hub what is left from before.")
    else:
        console.ok("secrets", f"{', '.join(sorted(there))} set, as in .env" if there else "none, as in .env")


def _tell_log(console: Console, hub: Hub, space: str) -> None:
    console.begin("log", "reading it")
    try:
        lines = list(hub.log(space, build=False))
    except HubError as error:
        console.row("warning", "log", f"cannot be read: {error.came_back}", error.next_step)
        return
    errors = [line for line in lines if _ERROR.search(line)]
    if errors:
        console.row("warning", "log", f"its last error: {errors[-1][:500]}", "The whole log is at the Hub, under Logs.")
    else:
        console.ok("log", f"no error in it ({len(lines)} lines)")


def _tell_page(console: Console, hub: Hub, space: str, state: SpaceState, env: EnvFile) -> SpacePage | None:
    asked_s, page = time.time(), SpacePage(state.host, hub.token if state.private else None)
    try:
        answer = ask_page(page.address, page.token)
    except requests.RequestException as error:
        told = f"nobody answers at {page.address} ({type(error).__name__})"
        console.row("failed", "page", told, "Restart the Space at the Hub (Settings, Restart), look at its log.")
        return None
    took_s = time.time() - asked_s
    if not answer.ok:
        told = f"{page.address} answers {answer.status_code}, though the Space runs"
        console.row("failed", "page", told, "Restart the Space at the Hub (Settings, Restart), look at its log.")
        return None
    console.ok("page", f"answers at {page.address} in {took_s:.1f} s")
    look_at_workers(console, page, space, env)
    _tell_clock(console, answer.headers.get("Date"), (asked_s + time.time()) / 2)
    return page


def _tell_clock(console: Console, date: str | None, our_s: float) -> None:
    try:
        difference_s = our_s - parsedate_to_datetime(date or "").timestamp()
    except (TypeError, ValueError):
        return
    if abs(difference_s) > _CLOCK_S:
        way = "ahead of" if difference_s > 0 else "behind"
        told = f"this machine's is {abs(difference_s):.0f} s {way} the Space's"
        console.row("warning", "clock", told, "Set this machine's clock by the network (timedatectl set-ntp true).")
    else:
        console.ok("clock", "right")
