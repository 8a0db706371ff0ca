"""`manage.py worker-key`: the line that makes a machine with a GPU draw for the Space."""

import sys

from endpoint.credentials import Credentials
from errors import SettingsError
from maintenance.console import Console
from maintenance.env_file import ENV_FILE, SECRET, EnvFile, home_line, read_env_file


def run(console: Console, *, space: str | None, bare: bool) -> None:
    """Prints it, or with `bare` the key, alone on stdout. Raises: SettingsError where there is no ENDPOINT_SECRET."""
    console.check = "worker"
    env = read_env_file()
    if env.secret is None:
        raise SettingsError(
            f"There is no {SECRET} in {ENV_FILE.resolve()}, so there is no worker's key. "
            "`python manage.py deploy --space OWNER/NAME` makes one, keeps it there and tells the Space."
        )
    if bare:
        console.verbatim(Credentials.from_secret(env.secret).worker_key)
        return
    tell_line(console, env, env.secret, space)


def tell_line(console: Console, env: EnvFile, secret: str, space: str | None) -> None:
    """The line on stdout; what there is to know about it on stderr."""
    line = home_line(env, secret, space)
    if console.as_json:
        console.row("ok", "worker", line, "Run it on the machine with the GPU. It holds the worker's key.")
        return
    console.verbatim(line)
    to_fill = [name for name in ("OWNER/NAME", "OWNER/MODEL") if f"={name} " in line]
    meaning = {"OWNER/NAME": "the Space (or give --space)", "OWNER/MODEL": "a model's id at the Hub"}
    for name in to_fill:
        print(f"Put {meaning[name]} in place of {name}.", file=sys.stderr)
    print("Whoever has this line can draw in your Space's name: keep it to yourself.", file=sys.stderr)
