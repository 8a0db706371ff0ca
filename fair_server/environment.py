"""The environment that a program gets: the server's own without its secrets."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path

# A variable is withheld if one of the words of its name (between underscores) is of these, or its name starts so.
_SECRET_WORDS = {"SECRET", "SECRETS", "PASSWORD", "PASSWD", "PASS", "PASSPHRASE", "TOKEN", "TOKENS", "CREDENTIAL"}
_SECRET_WORDS |= {"CREDENTIALS", "KEY", "KEYS", "APIKEY", "AUTH", "COOKIE"}
_SECRET_PREFIXES = ("FAIRCOMPUTE_",)


def program_environment(own: Mapping[str, str], start_folder: Path, pass_on: Collection[str] = ()) -> dict[str, str]:
    """Returns the variables for a program, of which `own` are the server's; those of `pass_on` it gets in any case.

    Everything that is not named like a secret passes, since programs of this machine need PATH, HOME, LANG, settings
    of their libraries and more that no list could foresee; what a program must keep to itself reaches it by file.
    A program runs in another folder than the server: so that `python -m MODULE` finds there what it finds where the
    server was started, that folder and the relative ones of PYTHONPATH become absolute entries of it.
    """
    environment = {name: value for name, value in own.items() if name in pass_on or not _is_secret(name)}
    entries = [entry for entry in own.get("PYTHONPATH", "").split(os.pathsep) if entry]
    found = [str(start_folder / entry) for entry in entries]
    environment["PYTHONPATH"] = os.pathsep.join([*found, str(start_folder)])
    return environment


def _is_secret(name: str) -> bool:
    upper = name.upper()
    return upper.startswith(_SECRET_PREFIXES) or not _SECRET_WORDS.isdisjoint(upper.split("_"))
