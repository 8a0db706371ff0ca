"""The doctor's look at what draws for a Space by dialling it: the key, the line, each worker, who was turned away."""

from typing import Any
from urllib.parse import urlsplit

import requests
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.sync.client import connect

from endpoint.credentials import Credentials
from errors import Absence
from maintenance.build import SpacePage, ask_page
from maintenance.console import Console, Status
from maintenance.doctor_places import tell_absence
from maintenance.env_file import SECRET, EnvFile

_OPEN_S = 10.0
_OLD_ROAD = (
    "Let {host} pass there, or use another network; where neither can be, the answer is the tutorial's road "
    '(README.md, "Through Fair and a tunnel").'
)


def look_at_workers(console: Console, page: SpacePage, space: str, env: EnvFile) -> None:
    """A row for each link between this network and the Space's workers; none where no worker is waited for."""
    if not (env.by_workers and env.secret):
        return
    key = Credentials.from_secret(env.secret).worker_key
    told = _status(console, page, space, key)
    if told is None or not _tell_line(console, page, key):
        return
    workers = [worker for worker in told.get("workers", []) if isinstance(worker, dict)]
    _tell_connected(console, [str(worker.get("name")) for worker in workers], told.get("turned_away", []), space, env)
    for worker in workers:
        _tell_worker(console, worker, told.get("version"))


def _status(console: Console, page: SpacePage, space: str, key: str) -> dict[str, Any] | None:
    """What `/worker-status` of the page tells who has the workers' key; None after a row that says why not."""
    console.check = "key"
    try:
        answer = ask_page(page.address, page.token, "/worker-status", **{"X-Worker-Key": key})
        told = answer.json() if answer.ok else None
    except (requests.RequestException, ValueError) as error:
        console.row("failed", "page", f"does not tell who is connected ({type(error).__name__})", "Look again.")
        return None
    if isinstance(told, dict):
        return told
    came_back = f"the Space does not take the worker's key that {SECRET} in .env makes ({answer.status_code})"
    fix = f"It has another secret, or draws elsewhere: python manage.py deploy --space {space}"
    console.row("failed", "key", came_back, fix)
    return None


def _tell_line(console: Console, page: SpacePage, key: str) -> bool:
    """Opens a WebSocket as a worker would and closes it at once, before it says who it is."""
    headers = {"X-Worker-Key": key, **({"Authorization": f"Bearer {page.token}"} if page.token else {})}
    address, host = f"ws{page.address.removeprefix('http')}/worker", urlsplit(page.address).hostname
    fix = _OLD_ROAD.format(host=host)
    try:
        with connect(address, additional_headers=headers, open_timeout=_OPEN_S, close_timeout=2):
            pass
    except InvalidStatus as error:
        status = error.response.status_code
        told = f"a WebSocket to {host} was answered with {status}: a proxy of this network lets none through"
        console.row("failed", "line", told, fix)
        return False
    except (InvalidHandshake, OSError, TimeoutError) as error:
        told = f"no WebSocket to {host} comes about from this network ({type(error).__name__}: {error})"
        console.row("failed", "line", told, fix)
        return False
    console.ok("line", "a WebSocket reaches the Space from this network")
    return True


def _tell_connected(
    console: Console, names: list[str], turned_away: list[dict[str, Any]], space: str, env: EnvFile
) -> None:
    """Who is connected, and who is not for a reason that the Space knows."""
    how: Status = "failed" if not names else "warning"
    others = [row for row in turned_away if isinstance(row, dict)]
    if wrong := [row for row in others if row.get("why") == "a wrong key"]:
        told = f"a machine showed a wrong worker's key {_ago(wrong[0])}"
        fix = f"Start the worker there with the line of: python manage.py worker-key --space {space}"
        console.row(how, "key", told, fix)
    if old := [row for row in others if "update the" in str(row.get("why"))]:
        told = f"a worker does not fit this Space ({_ago(old[0])}): {old[0]['why']}"
        console.row(how, "versions", told, _UPDATE)
    if names:
        console.ok("workers", f"connected: {', '.join(names)}")
    elif wrong or old:
        return
    elif env.space and env.space != space:
        told = f"none is connected here: {SECRET} in .env is {env.space}'s too, and a worker draws for one Space alone"
        fix = f"Start one for this Space (and with a --name of its own): python manage.py worker-key --space {space}"
        console.row("failed", "workers", told, fix)
    else:
        told = "no machine is connected: the Space draws sketches on its own CPU, or nothing"
        fix = f"Run on yours the line of `python manage.py worker-key --space {space}`; see its log: docker logs draw"
        console.row("warning", "workers", told, fix)


_UPDATE = "On its machine: git pull, docker build, docker rm -f draw, docker run. The Space: python manage.py deploy."


def _tell_worker(console: Console, worker: dict[str, Any], version: Any) -> None:
    """One worker: its model, its machine, and what keeps it from drawing."""
    name = str(worker.get("name"))
    if version and worker.get("version") != version:
        told = f"{name} is of version {worker.get('version')}, the Space of {version}; they still fit"
        console.row("warning", "versions", told, _UPDATE)
    if absence := worker.get("absence"):
        tell_absence(console, "worker", name, Absence(**absence))
        return
    if worker.get("state") == "failed":
        busy = str(worker.get("reason", "")).startswith("gpu-busy")
        told = f"{name} cannot load its model: {worker.get('reason') or 'it does not say why'}"
        console.row("warning" if busy else "failed", "worker", told, "See its log: docker logs draw.")
        return
    facts = [str(worker.get("model") or "a model that it does not name"), *_machine(worker.get("hardware") or {})]
    if worker.get("state") == "loading":
        stage = worker.get("stage") or "it loads its model"
        console.row("warning", "worker", f"{name}: {stage} ({', '.join(facts)})", "Wait for it, look again.")
    elif worker.get("state"):
        on = "" if worker.get("gpu") else ", without a GPU"
        console.ok("worker", f"{name}: {worker['state']}, {', '.join(facts)}{on}")


def _machine(hardware: dict[str, Any]) -> list[str]:
    facts = []
    if gpu := hardware.get("gpu"):
        facts.append(f"{gpu}, driver {hardware.get('driver')} for CUDA {hardware.get('cuda')}")
    if total := hardware.get("memory_bytes"):
        facts.append(f"{(hardware.get('free_bytes') or 0) / 1e9:.1f} of {total / 1e9:.1f} GB were free before it")
    if disk := hardware.get("disk_free_bytes"):
        facts.append(f"{disk / 1e9:.0f} GB of disk free")
    return facts


def _ago(row: dict[str, Any]) -> str:
    return f"{row.get('ago_s', 0)} s ago"
