"""A Space's build followed until its page answers: its stage, the lines of its log, and why it failed."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import requests

from errors import ServiceError
from maintenance.console import Console
from maintenance.hub import BUILDING, RESTING, STARTING, Hub, HubError, SpaceState, settings_page

_POLL_S, _POLL_SLOWLY_S = 1.0, 5.0  # a long build is asked for less often: the Hub counts requests
_HICCUP_S = 60.0  # for so long the Hub may be silent while a build is followed
_UNTOLD_S = 15.0  # a Hub that tells no running commit shows within this that it builds
_PAGE_S = 10.0
_LAST_LINES = 10

_WORDS = {
    "BUILDING": "building: what requirements.txt names is installed, some minutes the first time",
    "RUNNING_BUILDING": "building; until then the old version is served",
    "APP_STARTING": "built; the program starts",
    "RUNNING_APP_STARTING": "built; the program starts, until then the old version is served",
}


def follow_build(console: Console, hub: Hub, space: str, commit: str, *, timeout_s: float) -> None:
    """Waits until the page of this commit answers, for `timeout_s` seconds at most.

    Raises: ServiceError saying how the build failed, with the last lines of its log.
    """
    console.interrupted = f"The upload is done. The Space goes on by itself: {settings_page(space)} shows how."
    console.begin("build", "waiting for the Space to build")
    started = time.monotonic()
    state = _until_running(console, hub, space, commit, started + timeout_s)
    console.ok("build", f"runs, after {time.monotonic() - started:.0f} s")
    console.begin("page", f"waiting for {state.host}")
    _until_answered(state, hub.token if state.private else None, started + timeout_s)
    console.ok("page", f"answers at {state.host}")


def trouble(hub: Hub, space: str, state: SpaceState) -> ServiceError | None:
    """What keeps the Space from running, as far as its stage tells; None while it runs or is on the way."""
    told = f"{state.stage}{f': {state.message}' if state.message else ''}"
    look = f"{settings_page(space)} shows more."
    if state.is_flagged:
        return _trouble(
            space,
            f"Hugging Face has stopped it ({told})",
            "No restart helps. Remove what was objected to (signs of a tunnel, often), deploy again, and ask Hugging "
            "Face's support to lift it.",
        )
    if state.stage == "BUILD_ERROR":
        lines = _tail(hub, space, build=True)
        return _trouble(space, f"its build failed ({told}){lines}", "Mend what the last lines name, deploy again.")
    if state.stage == "RUNTIME_ERROR":
        lines = _tail(hub, space, build=False)
        return _trouble(space, f"its program ended ({told}){lines}", f"Mend what they name, deploy again. {look}")
    if state.stage in ("CONFIG_ERROR", "NO_APP_FILE"):
        return _trouble(space, f"it is set up wrongly ({told})", "Mend the head of README.md, deploy again.")
    if state.stage == "SLEEPING":
        return _trouble(space, "it sleeps, as nobody came for 48 hours", f"Open {state.host}: that wakes it.")
    if state.stage in RESTING:
        return _trouble(space, f"its owner has paused it ({told})", f"Restart it at {settings_page(space)}")
    if state.stage == "DELETING":
        return _trouble(space, "it is being deleted", "Deploy again when it is gone.")
    return None


@dataclass(frozen=True)
class SpacePage:
    """A Space's page that answers. `token`: what a private one wants to see."""

    address: str
    token: str | None = field(repr=False)


def ask_page(address: str, token: str | None, path: str = "/", **headers: str) -> requests.Response:
    """What the page answers, after 10 s at most. Raises: requests.RequestException."""
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return requests.get(f"{address}{path}", headers=headers, timeout=_PAGE_S)


def _until_running(console: Console, hub: Hub, space: str, commit: str, deadline: float) -> SpaceState:
    stage, was_busy, began = "", False, time.monotonic()
    with contextlib.closing(_BuildLog(console, hub, space)) as log:
        for state in _states(hub, space, deadline):
            if state.stage != stage and state.stage in _WORDS:
                console.begin("build", _WORDS[state.stage], lasting=True)
            stage = state.stage
            if stage in BUILDING:
                log.start()
            was_busy |= stage in BUILDING | STARTING
            early = not was_busy and time.monotonic() - began < _UNTOLD_S  # what it says may still be of before
            if stage == "RUNNING" and (state.running_commit == commit or not (state.running_commit or early)):
                return state
            if (state.is_flagged or not early) and (error := trouble(hub, space, state)):
                log.close()
                raise error
    next_step = f"{settings_page(space)} shows how far it is; nothing needs to be repeated."
    raise _trouble(space, f"it is still {stage or 'unknown'} after {time.monotonic() - began:.0f} s", next_step)


def _states(hub: Hub, space: str, deadline: float) -> Iterator[SpaceState]:
    """The Space's state again and again until the deadline; the Hub may be silent for a while."""
    began = last_heard = time.monotonic()
    while time.monotonic() < deadline:
        try:
            state = hub.space(space)
            last_heard = time.monotonic()
            if state:
                yield state
        except HubError:
            if time.monotonic() - last_heard > _HICCUP_S:
                raise
        time.sleep(min(_POLL_SLOWLY_S, _POLL_S + (time.monotonic() - began) / 30))


def _until_answered(state: SpaceState, token: str | None, deadline: float) -> None:
    while True:
        try:
            answer = ask_page(state.host, token)
            if answer.ok:
                return
            came_back = f"it answered {answer.status_code}"
        except requests.RequestException as error:
            came_back = f"nobody answered ({type(error).__name__})"
        if time.monotonic() > deadline:
            next_step = "Look at the Space's log in the browser, or run `python manage.py doctor --space ...`."
            raise ServiceError("The page", tried=f"open {state.host}", came_back=came_back, next_step=next_step)
        time.sleep(_POLL_S)


class _BuildLog:
    """The build's log, printed line by line from a thread until it is closed."""

    def __init__(self, console: Console, hub: Hub, space: str) -> None:
        self._console, self._hub, self._space = console, hub, space
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._print, name="build-log", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Nothing is printed from now on."""
        self._ended.set()

    def _print(self) -> None:
        with contextlib.suppress(HubError):  # the stage tells what matters
            for line in self._hub.log(self._space, build=True, follow=True):
                if self._ended.is_set():
                    return
                self._console.quote(line)


def _tail(hub: Hub, space: str, *, build: bool) -> str:
    try:
        lines = list(hub.log(space, build=build))[-_LAST_LINES:]
    except HubError as error:
        return f"; its log cannot be read: {error.came_back}"
    return ". Its log ends with:\n" + "\n".join(f"| {line}" for line in lines) if lines else "; its log is empty"


def _trouble(space: str, came_back: str, next_step: str) -> ServiceError:
    return ServiceError(f"The Space {space}", tried="reach its page", came_back=came_back, next_step=next_step)
