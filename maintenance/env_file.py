"""The maintainer's `.env`: what of it a Space is told, and the ENDPOINT_SECRET that is kept in it.

It lies in the current folder, where the page looks for it as well. Only settings that the page knows are read.
"""

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values, set_key
from pydantic import AliasChoices

from endpoint.credentials import Credentials
from errors import SettingsError
from settings import InferenceConfig, Settings

ENV_FILE = Path(".env")
SECRET = "ENDPOINT_SECRET"  # noqa: S105  # its name

SPACE = "SPACE"
# What a copy from a web page or a chat brings along unseen; no setting means it.
INVISIBLE = {ord(character): None for character in "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"}
_OF_A_SPACE_ITSELF = {"SPACE_ID", "GRADIO_SERVER_PORT"}
_PERSONAL = {"FAIRCOMPUTE_EMAIL", "FAIRCOMPUTE_USER_EMAIL"}


@dataclass(frozen=True)
class _Known:
    """A setting: its keyword for `Settings.load`, whether it is a secret, and whether it is the inference server's."""

    keyword: str
    secret: bool
    of_the_engine: bool


@dataclass(frozen=True)
class EnvFile:
    """The settings of `.env` by environment name, checked.

    `settings`: the same as the page would understand them; `repaired`: the names whose values held invisible
    characters, which are left out here; `space`: the Space that was told ENDPOINT_SECRET first, its name in SPACE.
    """

    values: dict[str, str] = field(repr=False)
    settings: Settings
    repaired: tuple[str, ...] = ()
    space: str | None = None

    @property
    def secret(self) -> str | None:
        """ENDPOINT_SECRET, None where there is none."""
        return self.values.get(SECRET)

    @property
    def by_workers(self) -> bool:
        """Whether a Space with these settings leaves the drawing to the machines that connect to it. A model named here
        is theirs: the Space is not told of it.
        """
        return self.settings.mode in ("local", "workers")

    def for_the_space(self) -> dict[str, str]:
        """What a Space is told, by name: not what the hub sets itself, nor what is the machine's with the GPU."""
        kept = _OF_A_SPACE_ITSELF | (set(self.for_the_worker()) if self.by_workers else set())
        return {name: value for name, value in self.values.items() if name not in kept}

    def for_the_worker(self) -> dict[str, str]:
        """What the inference server is told, by name."""
        known = _known()
        return {name: value for name, value in self.values.items() if known[name].of_the_engine}


def read_env_file() -> EnvFile:
    """Reads `.env`; ENDPOINT_SECRET may stand in the environment instead. No file is an empty one.

    Raises: SettingsError.
    """
    try:
        found = dotenv_values(ENV_FILE, interpolate=False) if ENV_FILE.is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{ENV_FILE.resolve()} cannot be read: {error}") from None
    known = _known()
    found = {name.upper(): value for name, value in found.items()}
    if not found.get(SECRET) and os.environ.get(SECRET):
        found[SECRET] = os.environ[SECRET]
    given = {name: value for name, value in found.items() if value and name in known}
    values = {name: _clean(name, value) for name, value in given.items()}
    repaired = tuple(name for name, value in values.items() if value != given[name].strip(" "))
    values = {name: value for name, value in values.items() if value}
    settings = Settings.load(_env_file=None, **{known[name].keyword: value for name, value in values.items()})
    return EnvFile(values, settings, repaired, (found.get(SPACE) or "").strip() or None)


def is_known(name: str) -> bool:
    """Whether this is a setting of ours."""
    return name in _known()


def is_secret(name: str) -> bool:
    """Whether a Space must keep this setting from its visitors."""
    return _known()[name].secret


def keep_secret(secret: str, space: str | None = None) -> None:
    """Writes ENDPOINT_SECRET into `.env`, in one step; its other lines stay, and only the owner can read it.

    `space`: whose it is, kept beside it in SPACE, where compose.yaml finds it too.

    Raises: SettingsError.
    """
    try:
        if ENV_FILE.exists():
            ENV_FILE.chmod(0o600)
        set_key(ENV_FILE, SECRET, secret, quote_mode="never", follow_symlinks=True)
        if space:
            set_key(ENV_FILE, SPACE, space, quote_mode="never", follow_symlinks=True)
    except OSError as error:
        raise SettingsError(
            f"{ENV_FILE.resolve()} cannot be written ({error.strerror}): {SECRET} has no place."
        ) from None


def home_line(env: EnvFile, secret: str, space: str | None) -> str:
    """The command that makes a machine with a GPU draw for the Space. It holds the worker's key."""
    told = {"SPACE": space or env.space or "OWNER/NAME", "WORKER_KEY": Credentials.from_secret(secret).worker_key}
    told |= {"MODEL_ID": "OWNER/MODEL", **env.for_the_worker()}
    if Path(told["MODEL_ID"]).is_absolute():  # a folder here is none in a container
        told["MODEL_ID"] = "OWNER/MODEL"
    settings = " ".join(f"-e {name}={shlex.quote(value)}" for name, value in told.items())
    how = "docker run -d --restart unless-stopped --stop-timeout 40 --gpus all --name draw -v draw:/data"
    return f"{how} {settings} draw"


def _known() -> dict[str, _Known]:
    """The settings by their names in the environment."""
    known = {}
    for name, info in Settings.model_fields.items():
        alias = info.validation_alias
        aliases = alias.choices if isinstance(alias, AliasChoices) else [alias] if alias else []
        for keyword in map(str, aliases or [name]):
            environment_name = keyword.upper()
            secret = "SecretStr" in repr(info.annotation) or environment_name in _PERSONAL
            known[environment_name] = _Known(keyword, secret, name in InferenceConfig.model_fields)
    return known


def _clean(name: str, text: str) -> str:
    """A value without what was pasted along; a password may begin or end with a space."""
    bare = text.translate(INVISIBLE).strip("\r\n")
    return bare if "PASSWORD" in name else bare.strip()
