"""The doctor's look at what draws when it is no worker: a Fair and its nodes, a fixed endpoint, or this machine."""

import importlib.util
import time
from urllib.parse import urlsplit

from endpoint.credentials import Credentials
from endpoint_client import EndpointClient
from errors import Absence, EndpointError, EndpointUnreachableError, EndpointUntrustedError, FairError
from fair_api.client import DeadlineFairClient
from fair_api.models import Node
from maintenance.console import Console
from network.addresses import host_port, is_loopback
from settings import Settings

PORTS_OF_A_SPACE = (80, 443, 8080)
_SCHEMES = {"http": 80, "https": 443}


def look_at_fair(console: Console, settings: Settings, *, from_space: bool) -> None:
    """Fair's port, the login, the nodes, and the endpoint if it is up. `from_space`: whether a Space uses it."""
    console.check = "fair"
    address = urlsplit(settings.fair_address)
    if from_space and not _reachable_port(console, "FAIRCOMPUTE_SERVER_ADDRESS", address.port, address.scheme):
        return
    password = settings.faircompute_password.get_secret_value() if settings.faircompute_password else ""
    try:
        fair = DeadlineFairClient(
            settings.fair_address,
            settings.faircompute_email or "",
            password,
            certificate_sha256=settings.faircompute_cert_sha256,
        )
        console.ok("fair", f"{settings.fair_address} takes the login")
        console.check = "nodes"
        boxes = [fair.node(name) for name in settings.inference_node or ()]
        tunnel_node = fair.node(settings.tunnel_node) if settings.has_tunnel and settings.tunnel_node else None
    except FairError as error:
        console.failure(error)
        return
    nodes = [*boxes, tunnel_node] if tunnel_node else boxes
    away = [node.name for node in nodes if node.away]
    is_missed = any(node.away for node in nodes if node not in boxes) or all(box.away for box in boxes)
    if away:
        told = f"Fair does not reach {', '.join(away)}" + ("" if is_missed else ": the others draw")
        fix = "Is the machine on, and its Fair agent connected?"
        console.row("failed" if is_missed else "warning", "nodes", told, fix)
    if is_missed:
        return
    console.ok("nodes", ", ".join(node.name for node in nodes if not node.away) + " there")
    for number, box in enumerate(boxes):
        if not box.away:
            _look_at_chain(console, settings, tunnel_node or box, number, from_space=from_space)


def look_at_endpoint(console: Console, settings: Settings, *, from_space: bool) -> None:
    """The fixed endpoint: its port, its pinned certificate, its health."""
    url = urlsplit(settings.endpoint_url or "")
    if from_space and not _reachable_port(console, "ENDPOINT_URL", url.port, url.scheme):
        return
    error = _tell_health(console, settings, settings.endpoint_url or "")
    if error is not None:
        console.failure(error)


def look_at_this_machine(console: Console, settings: Settings) -> None:
    """What it takes to draw here: the model and what runs it."""
    from demo_model import DemoModelError, folder

    package = "diffusers" if settings.engine == "diffusers" else "openvino_genai"
    if importlib.util.find_spec(package) is None:
        told = f"the package {package} is not installed"
        console.row("failed", "engine", told, "`make run` installs it, or pip install -r requirements.txt.")
        return
    console.ok("engine", f"{package} is installed")
    if settings.model_id:
        console.ok("model", f"{settings.model_id}, fetched when it is first needed")
        return
    try:
        console.ok("model", f"the built-in one, whole, at {folder()}")
    except DemoModelError as error:
        console.row("failed", "model", str(error), "Check the repository's files out again.")


def _look_at_chain(console: Console, settings: Settings, node: Node, number: int, *, from_space: bool) -> None:
    """The way to one box's inference server. Nobody there is no fault: the first drawing starts what is missing."""
    name, port = settings.endpoint_port(number)
    boxes = settings.inference_node or ()
    box = f"{boxes[number]}: " if len(boxes) > 1 else ""
    host = settings.tunnel_address or node.host_address
    console.check = "endpoint"
    if host is None:
        told = f"Fair does not tell the address of {node.name}"
        console.row("failed", "endpoint", told, "Set TUNNEL_ADDRESS to where that machine is reached.")
        return
    if from_space and not is_loopback(host) and not _reachable_port(console, name, port, ""):
        return
    scheme = "http" if settings.endpoint_tls == "none" else "https"
    error = _tell_health(console, settings, f"{scheme}://{host_port(host, port)}", box)
    if isinstance(error, EndpointUnreachableError) and error.how in ("refused", "closed"):
        told = f"{box}nothing runs at {host_port(host, port)} now: the first drawing starts it"
        console.ok("endpoint", told)
    elif error is not None:
        console.failure(error)


def _tell_health(console: Console, settings: Settings, url: str, box: str = "") -> EndpointError | None:
    """The rows of a server that answers as it should; the error of one that does not, told by nobody yet."""
    secret = settings.endpoint_secret.get_secret_value() if settings.endpoint_secret else ""
    trusted = Credentials.from_secret(secret) if secret and settings.endpoint_tls != "none" else None
    https = url.startswith("https")
    pinned = settings.endpoint_tls == "pinned" and https
    endpoint = EndpointClient(
        url,
        bearer=trusted.bearer if trusted else None,
        certificate_sha256=trusted.certificate_sha256 if trusted and pinned else None,
        authorities=settings.endpoint_authorities,
    )
    console.check = "endpoint"
    try:
        health = endpoint.health(timeout_s=10.0)
    except EndpointError as error:
        if isinstance(error, EndpointUntrustedError):
            console.check = "pin" if pinned else "certificate"
        return error
    finally:
        endpoint.close()
    if trusted and pinned:
        console.ok("pin", "the certificate is the one made from ENDPOINT_SECRET")
    elif https:
        console.ok("certificate", "the authorities vouch for it")
    if health.broken:
        told = f"the server is there, its model is not: {health.reason or 'no reason given'}"
        console.row("failed", "endpoint", told, "See that server's log.")
    elif health.absence:
        tell_absence(console, "endpoint", url, health.absence)
    else:
        facts = [health.state, health.model, f"engine {health.engine}" if health.engine else None]
        gpu = "with a GPU" if health.gpu else "without a GPU"
        console.ok("endpoint", f"{box}{url}: {', '.join(fact for fact in facts if fact)}, {gpu}")
    if health.memory_plan:
        console.ok("memory", health.memory_plan)
    for notice in health.notices:
        console.ok("licence" if notice.startswith("Licence") else "precision", notice)
    return None


def tell_absence(console: Console, check: str, name: str, absence: Absence) -> None:
    """A warning: that machine is there, and its owner lets it draw nothing now."""
    until = time.strftime(" until %d %b %H:%M", time.localtime(absence.until)) if absence.until else ""
    if absence.reason == "budget":
        told = f"{name} has drawn its minutes for today"
        console.row("warning", check, f"{told}: it draws nothing{until}", "MAX_GPU_MINUTES_PER_DAY there sets them.")
        return
    fix = "`docker exec draw python -m inference_server resume` on that machine ends the pause."
    console.row("warning", check, f"{name} is paused by its owner{until}", fix)


def _reachable_port(console: Console, setting: str, port: int | None, scheme: str) -> bool:
    port = port or _SCHEMES.get(scheme, 0)
    if port in PORTS_OF_A_SPACE:
        return True
    told = f"{setting} means port {port}, and a Space reaches ports 80, 443 and 8080 only"
    console.row("failed", "port", told, "Let it listen on one of these, or run the page on a machine of yours.")
    return False
