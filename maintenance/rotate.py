"""`manage.py rotate`: a new ENDPOINT_SECRET for `.env` and the Space. The old one and its keys open nothing then."""

from endpoint.credentials import new_secret
from maintenance.console import Console
from maintenance.env_file import ENV_FILE, SECRET, keep_secret, read_env_file
from maintenance.hub import Hub, HubError
from maintenance.worker_key import tell_line


def run(console: Console, *, space: str | None) -> None:
    """Tells the Space first: where that fails nothing has changed. Raises: SettingsError, HubError."""
    console.check = "settings"
    env = read_env_file()
    secret = new_secret()
    if space:
        hub = Hub()
        console.begin("space", f"telling {space} its new {SECRET}")
        if hub.space(space) is None:
            next_step = "Check --space, and that the token may see it. Nothing was changed."
            raise HubError(tried=f"find {space}", came_back="there is no such Space", next_step=next_step)
        console.interrupted = f"Perhaps {space} has a new secret that is not in {ENV_FILE}: run rotate again."
        hub.set_secret(space, SECRET, secret)
        console.ok("space", f"{space} has the new {SECRET}; it restarts by itself")
    keep_secret(secret)
    console.interrupted = ""
    console.ok("secret", f"new, in {ENV_FILE.resolve()}")
    if not space:
        told = "a Space is not told yet: until then it takes the old key only"
        console.row("warning", "space", told, "python manage.py deploy --space OWNER/NAME (or rotate with --space).")
    if env.settings.mode == "fair":
        console.ok("services", "what runs through Fair is replaced at the next drawing")
    if env.settings.mode == "endpoint":
        told = "the inference server at ENDPOINT_URL still has the old keys"
        console.row(
            "warning", "endpoint", told, "Write its endpoint.json anew (inference_server/README.md), restart it."
        )
    console.row(
        "warning", "workers", "each one's key is void now", "On its machine: docker rm -f draw, then this line:"
    )
    console.say()
    tell_line(console, env, secret, space)
