"""`manage.py doctor`: every link in turn, each ok, a warning, or failed with what to do. It starts and stops nothing.

What lies behind a failed link is not looked at: the row that failed is the one to mend.
"""

import os
import tempfile
import time
from pathlib import Path

from errors import SettingsError, SpaceError
from maintenance.build import SpacePage
from maintenance.console import Console
from maintenance.doctor_places import look_at_endpoint, look_at_fair, look_at_this_machine
from maintenance.doctor_space import look_at_space
from maintenance.env_file import SECRET, EnvFile, read_env_file
from tools.space_files import ROOT, space_files

PROMPT = "a red apple"
_DRAWING_S = 600.0


def run(console: Console, *, space: str | None, draw: bool) -> None:
    """Prints a row for each link."""
    console.check, console.interrupted = "settings", "Looking changes nothing; run it again."
    try:
        env = read_env_file()
    except SettingsError as error:
        console.row("failed", "settings", str(error), "Correct it in .env or in the environment, look again.")
        return
    _tell_settings(console, env)
    _tell_card(console)
    page = look_at_space(console, space, env) if space else None
    if env.settings.mode == "fair" and not console.has_failed:
        look_at_fair(console, env.settings, from_space=bool(space))
    elif env.settings.mode == "endpoint" and not console.has_failed:
        look_at_endpoint(console, env.settings, from_space=bool(space))
    elif not space:
        look_at_this_machine(console, env.settings)
    if draw and not console.has_failed:
        _draw(console, page, here=space is None)
    console.say(f"\n{_sum(console)}")
    if env.space and not space:
        console.say(f"That was this machine alone. The Space too: python manage.py doctor --space {env.space}")


def _tell_settings(console: Console, env: EnvFile) -> None:
    settings = env.settings
    if settings.mode == "fair":
        told = f"it is drawn through Fair at {settings.fair_address}"
    elif settings.mode == "endpoint":
        told = f"it is drawn at {settings.endpoint_url}"
    elif settings.mode == "workers":
        told = f"{SECRET} alone: it is drawn on the machines that connect to the Space"
    elif env.secret:
        told = f"{SECRET}: a Space's is drawn on the machines that connect, a page's here with MODEL_ID"
    else:
        told = f"none: it is drawn on this machine, with {settings.model_id or 'the built-in model'}"
    console.ok("settings", told)
    if env.repaired:
        told = f"{', '.join(env.repaired)} holds invisible characters or line ends"
        console.row("warning", "settings", told, "Paste it anew; `deploy` leaves them out, a page here does not.")
    differing = [name for name, value in env.values.items() if os.environ.get(name, value).strip() != value.strip()]
    if differing:
        told = f"{', '.join(differing)}: .env and the environment differ"
        console.row("warning", "settings", told, "A page started here takes the environment's, `deploy` that of .env.")


def _tell_card(console: Console) -> None:
    """The head of README.md and the pins, as far as that is seen without installing anything."""
    try:
        from tools.space_check.card import disagreements, read_card
    except ModuleNotFoundError:  # a checkout without its tools
        return
    card, faults = read_card(ROOT)
    if card:
        faults += disagreements(card, ROOT, list(space_files().values()))
    if faults:
        console.row("failed", "card", "; ".join(faults), "Mend that; `make space-check` looks at more.")
    else:
        console.ok("card", "README.md's head and requirements.txt agree")


def _draw(console: Console, page: SpacePage | None, *, here: bool) -> None:
    """Asks for one picture, as a visitor would: of the Space's page, or of what draws for this machine."""
    if page is None and not here:
        return
    console.begin("drawing", f"asking for {PROMPT!r}; a machine that sleeps needs a while")
    started = time.monotonic()
    try:
        picture = _draw_on(page) if page else _draw_here()
    except SpaceError as error:
        console.failure(error)
        return
    except Exception as error:  # gradio_client lets through whatever happens to it
        told = " ".join(str(error).split())[:300] or type(error).__name__
        console.row("failed", "drawing", f"the page did not draw: {told}", "See its log at the Hub, and the worker's.")
        return
    console.ok("drawing", f"done in {time.monotonic() - started:.1f} s: {picture}")


def _draw_on(page: SpacePage) -> Path:
    from gradio_client import Client  # type: ignore[import-untyped]

    client = Client(
        page.address,
        token=page.token or False,  # with None it would take the one of this machine along
        verbose=False,
        download_files=tempfile.mkdtemp(prefix="doctor-"),
        analytics_enabled=False,
    )
    drawn = client.submit(PROMPT, api_name="/text_to_image").result(timeout=_DRAWING_S)
    return Path(drawn[0])


def _draw_here() -> Path:
    from text_to_image import default_service

    service = default_service()
    try:
        image = service.submit(PROMPT).result(_DRAWING_S).image
    finally:
        service.close()
    file = Path(tempfile.mkdtemp(prefix="doctor-")) / "picture.png"
    image.save(file)
    return file


def _sum(console: Console) -> str:
    if console.has_failed:
        return "Mend what failed, then look again: what lies behind it was not looked at."
    return "No link has failed; mind the warnings." if console.has_warned else "Every link is ok."
