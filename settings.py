"""Every setting of the page's side, from the environment and `.env`: checked at start, the bad one named.

Gradio reads its own settings itself, and so do the programs that `fair_api/local_server.py` starts. The table in
README.md has names, meanings and defaults. Secrets are `SecretStr`: they appear in no `repr`, log or error.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from errors import SettingsError
from network import tunnel as tunnel_program
from network.addresses import has_sound_parts, is_host, is_loopback

DEFAULT_FAIR_ADDRESS = "https://faircompute.com:8000"
DEFAULT_PORTS = {"tunnel_control_port": 2333, "tunnel_public_port": 8080, "inference_host_port": 5001}
HOW_TO_MAKE_ONE = """python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"""
_SOUND_PARTS = "must have 1 to 63 characters between the dots of its host name"

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=0, le=7 * 24 * 3600, allow_inf_nan=False)]


def _http_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        _ = parts.port  # looking at it checks it
    except ValueError:
        raise ValueError("must be a URL such as https://host:8080, with a port from 1 to 65535") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL such as https://host:port")
    if parts.username or parts.password:
        raise ValueError("must hold no user name or password")
    if not has_sound_parts(parts.hostname):
        raise ValueError(_SOUND_PARTS)
    return value.rstrip("/")


def _host(value: str) -> str:
    """A host name or an IP address of either kind: it goes into configuration files and into a URL."""
    if not has_sound_parts(value):
        raise ValueError(_SOUND_PARTS)
    if not is_host(value):
        raise ValueError("must be a host name or an IP address, without scheme and port")
    return value


def _one_line(value: SecretStr) -> SecretStr:
    """A password as it was typed, spaces too, without the end of a line that was copied along."""
    return SecretStr(value.get_secret_value().strip("\r\n"))


def _listed(value: object) -> object:
    """The parts between the commas of a text; one value alone is a list, too."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int) else value


def _each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values or len(set(values)) < len(values):
        raise ValueError("must name each one once, with a comma in between")
    return values


def _sha256(value: str) -> str:
    """A certificate's SHA-256, with the colons and the label that openssl prints or without."""
    digits = value.rpartition("=")[2].replace(":", "").strip().lower()
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise ValueError("must be the 64 hexadecimal digits of a certificate's SHA-256")
    return digits


def _long_secret(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().strip("\ufeff\u200b \t\r\n")  # pasted along
    if not text.isprintable():
        raise ValueError("holds a line's end or an invisible character: paste it once more")
    if len(text.encode()) < 32 or len(set(text)) < 8:
        raise ValueError(f"must be at least 32 random bytes as text; this prints one: {HOW_TO_MAKE_ONE}")
    return SecretStr(text)


HttpUrl = Annotated[str, AfterValidator(_http_url)]
Host = Annotated[str, AfterValidator(_host)]
Nodes = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed), AfterValidator(_each_once)]
Ports = Annotated[tuple[Port, ...], NoDecode, BeforeValidator(_listed), Field(min_length=1)]
Line = Annotated[str, Field(max_length=2000)]
Mode = Literal["local", "fair", "endpoint", "workers"]
Tls = Literal["pinned", "public", "none"]


def _env(*names: str) -> Any:
    return Field(default=None, validation_alias=AliasChoices(*names))


class InferenceConfig(BaseModel):
    """What the environment tells the inference server of a chain, under endpoint.json's keys. None: not said.

    A new setting of the engine needs one line here: it is read from the environment (its name in capitals, unless an
    alias says otherwise) and written into endpoint.json. Times in seconds, 0: never.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=(), validate_by_name=True)

    engine: Literal["openvino", "diffusers"] | None = Field(default=None, validation_alias="INFERENCE_ENGINE")
    model_id: str | None = None
    model_file: Line | None = None
    model_revision: str | None = None
    model_precision: str | None = None
    memory_plan: Literal["auto", "full", "fp8", "nf4", "offload"] | None = None
    loras: Line | None = None  # name=source[:weight], ...
    safety_checker_model: Line | None = None
    public_page: bool | None = None
    idle_engine_s: Seconds | None = None
    idle_exit_s: Seconds | None = None


class HouseSettings(BaseModel):
    """What visitors are told about whose machine draws and what holds here, and what they may ask for.

    A number of 0 is no limit. None: the page says what holds by default, or nothing.
    """

    model_config = ConfigDict(frozen=True, validate_by_name=True, protected_namespaces=())

    owner_name: Line | None = Field(default=None, validation_alias=AliasChoices("OWNER_NAME", "SPACE_AUTHOR_NAME"))
    gpu_name: Line | None = None
    model_card_url: HttpUrl | None = None
    model_license: Line | None = None
    privacy_text: Line | None = None
    use_policy: Line | None = None
    report_to: Line | None = None  # an address on the web or for mail
    space_id: Line | None = None
    visitor_waiting_max: Annotated[int, Field(ge=0, le=10_000)] = 0
    visitor_pictures_per_hour: Annotated[int, Field(ge=0, le=100_000)] = 0
    blocked_words: Annotated[str, Field(max_length=100_000)] | None = None  # see drawing/blocked_words.py


class Settings(InferenceConfig, HouseSettings, BaseSettings):
    """The settings as given. `backends/choose.py` hands each backend the part that it needs."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        validate_by_name=False,  # else ENGINE would set `engine`
    )

    faircompute_email: str | None = _env("FAIRCOMPUTE_EMAIL", "FAIRCOMPUTE_USER_EMAIL")
    faircompute_password: Annotated[SecretStr, AfterValidator(_one_line)] | None = _env(
        "FAIRCOMPUTE_PASSWORD", "FAIRCOMPUTE_USER_PASSWORD"
    )
    faircompute_server_address: HttpUrl | None = None
    faircompute_cert_sha256: Annotated[str, AfterValidator(_sha256)] | None = None
    inference_node: Nodes | None = None
    tunnel_node: str | None = None
    tunnel_address: Host | None = None
    inference_image: str | None = None
    tunnel_image: str = tunnel_program.IMAGE
    tunnel: tunnel_program.Tunnel = tunnel_program.PROGRAM
    inference_host_port: Ports | None = None  # one for all boxes, or one for each
    tunnel_control_port: Port | None = None
    tunnel_public_port: Ports | None = None  # one for each box
    endpoint_url: HttpUrl | None = None
    endpoint_secret: Annotated[SecretStr, AfterValidator(_long_secret)] | None = None
    endpoint_tls: Tls = "pinned"
    endpoint_tls_port: Port | None = None  # of the box, where TLS ends in front of the inference server
    endpoint_authorities: str | None = _env("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")  # a file or folder, for `public`
    deployment: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        default="local", validation_alias=AliasChoices("DEPLOYMENT", "SPACE_ID")
    )
    space_id: str | None = None  # set by the platform
    worker_wait_s: Seconds = 60
    fallback: Literal["cpu", "none"] = "cpu"
    fallback_model_id: str | None = None
    start_timeout_s: Annotated[float, Field(ge=1, le=24 * 3600, allow_inf_nan=False)] = 300
    gradio_server_port: Port | None = None  # Gradio reads it itself; a wrong one is named here

    @model_validator(mode="before")
    @classmethod
    def _blank_counts_as_unset(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Drops the white space around a value, but for a password's, and each value that is nothing else."""
        kept = {name: value for name, value in values.items() if not isinstance(value, str) or value.strip()}
        return {
            name: value.strip() if isinstance(value, str) and "password" not in name.lower() else value
            for name, value in kept.items()
        }

    @classmethod
    def load(cls, **values: Any) -> Self:
        """The settings of the environment; `values`, by the same names or in small letters, come before it.

        Raises: SettingsError naming every setting that is missing or wrong, without its value.
        """
        try:
            settings = cls(**values)
        except ValidationError as error:
            wrong = "; ".join(f"{_env_name(part['loc'])} {_reason(part)}" for part in error.errors())
            raise SettingsError(f"Settings: {wrong}. The table in README.md tells what each one means.") from None
        settings._check_together()
        return settings

    @property
    def mode(self) -> Mode:
        """`endpoint`: a fixed endpoint; `fair`: a Fair that was configured; `workers`: those that dial in, where
        ENDPOINT_SECRET stands alone; `local`: this machine alone, with the model that is named, if one is.
        """
        if self.endpoint_url:
            return "endpoint"
        if self._fair_settings():
            return "fair"
        return "workers" if self.endpoint_secret and not (self.model_id or self.model_file or self.engine) else "local"

    @property
    def has_tunnel(self) -> bool:
        """Whether there is a tunnel in front of the inference node. A Space alone has none unless it is asked for."""
        return self.tunnel != "none" and not (self.space_id and self.mode == "local" and not self._names_tunnel)

    @property
    def _names_tunnel(self) -> bool:
        return bool({"tunnel", "tunnel_image"} & self.model_fields_set)

    @property
    def fair_address(self) -> str:
        """Base URL of the configured Fair server."""
        return self.faircompute_server_address or DEFAULT_FAIR_ADDRESS

    @property
    def inference(self) -> InferenceConfig:
        """What the inference server of a chain is told. On this machine alone it ends by itself only where set."""
        config = InferenceConfig(**{name: getattr(self, name) for name in InferenceConfig.model_fields})
        idle = {"idle_engine_s": 300.0, "idle_exit_s": 900.0} if self.mode == "fair" else {}
        return config.model_copy(update={name: s for name, s in idle.items() if getattr(self, name) is None})

    def port(self, name: str, box: int = 0) -> int:
        """The port of that setting, such as `tunnel_public_port`; 0, for a free one, where all is on this machine.

        `box`: which of several boxes it is for, as INFERENCE_NODE names them.
        """
        given = getattr(self, name)
        if isinstance(given, tuple):
            given = given[box] if len(given) > 1 else given[0]
        return given or (DEFAULT_PORTS[name] if self.mode == "fair" else 0)

    def endpoint_port(self, box: int = 0) -> tuple[str, int]:
        """The setting and the number of the port at which a box is asked; `box` as in `port`."""
        if self.has_tunnel:
            return "TUNNEL_PUBLIC_PORT", self.port("tunnel_public_port", box)
        if self.endpoint_tls_port:
            return "ENDPOINT_TLS_PORT", self.endpoint_tls_port
        return "INFERENCE_HOST_PORT", self.port("inference_host_port", box)

    @property
    def cache_folder(self) -> Path | None:
        """Where this user keeps what can be found out again; None for a user without a home, in a container."""
        try:
            cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        except RuntimeError:
            return None
        return Path(cache) / "stable-diffusion-space"

    @property
    def fair_is_readable(self) -> bool:
        """Whether requests to Fair, secrets included, cross a network in plain text."""
        parts = urlsplit(self.fair_address)
        return self.mode == "fair" and parts.scheme == "http" and not is_loopback(parts.hostname or "")

    @property
    def without_effect(self) -> list[str]:
        """Environment names of the settings given that reach no inference server: no configuration file does."""
        if self.mode == "local" or (self.mode == "fair" and self.endpoint_tls != "none"):
            return []
        return [
            str(field.validation_alias or name.upper())
            for name, field in InferenceConfig.model_fields.items()
            if getattr(self, name) is not None
        ]

    def _fair_settings(self) -> list[str]:
        """Environment names of the settings given that only a Fair that is not this program's own can mean."""
        names = (
            "faircompute_email",
            "faircompute_password",
            "faircompute_server_address",
            "faircompute_cert_sha256",
            "inference_node",
            "tunnel_node",
            "tunnel_address",
            "inference_image",
        )
        return [name.upper() for name in names if getattr(self, name) is not None]

    def _check_together(self) -> None:
        fair = self._fair_settings()
        self._check_ports()
        self._check_tls()
        if self.endpoint_url:
            self._check_endpoint(self.endpoint_url, fair)
        elif fair:
            self._check_fair(fair)
        elif self.engine and not (self.model_id or self.model_file):
            raise SettingsError(
                f"INFERENCE_ENGINE={self.engine} needs a model: set MODEL_ID (a folder or a hub id), "
                "or unset INFERENCE_ENGINE to draw with the built-in demo model."
            )

    def _check_ports(self) -> None:
        """On one node two programs cannot have one port; on this machine alone, what is not set gets a free one."""
        if self.mode == "endpoint":
            return
        boxes = len(self.inference_node or "1")
        self._check_number_of_ports(boxes)
        wanted = [("tunnel_control_port", 0)] if self.has_tunnel else []
        wanted += [("tunnel_public_port", box) for box in range(boxes) if self.has_tunnel]
        for box in range(boxes):
            if self.mode in ("local", "workers") or (self.inference_node or [""])[box] == self.tunnel_node:
                wanted.append(("inference_host_port", box))
        taken: dict[int, str] = {}
        for name, box in wanted:
            port = self.port(name, box)
            if port in taken:
                unset = ", ".join(f"{other.upper()} is {number} unless set" for other, number in DEFAULT_PORTS.items())
                raise SettingsError(
                    f"{taken[port]} and {name.upper()} are both {port}, on one node: give each a port of its own"
                    f"{f' ({unset})' if self.mode == 'fair' else ''}."
                )
            if port:
                taken[port] = name.upper()

    def _check_number_of_ports(self, boxes: int) -> None:
        """A tunnel needs a public port for each box; a box of its own may have the same host port as another one."""
        public = len(self.tunnel_public_port or "1")
        if self.has_tunnel and public < boxes:
            raise SettingsError(
                f"INFERENCE_NODE names {boxes} boxes, TUNNEL_PUBLIC_PORT has too few ports for them ({public}). Each "
                "box needs one of its own on the tunnel node, in the same order: TUNNEL_PUBLIC_PORT=8080,80 for two (a "
                "Space reaches 80, 443 and 8080 only)."
            )
        host = len(self.inference_host_port or "1")
        if 1 < host < boxes:
            raise SettingsError(
                f"INFERENCE_NODE names {boxes} boxes, and INFERENCE_HOST_PORT has {host} ports: give one for all of "
                "them, or one for each, in the same order."
            )
        if not self.has_tunnel and self.tunnel_address and host < boxes:
            raise SettingsError(
                "TUNNEL_ADDRESS is one address, and without a tunnel each box has its own: unset it where Fair tells "
                "them, or give each box an INFERENCE_HOST_PORT of its own behind it."
            )

    def _check_tls(self) -> None:
        if self.endpoint_tls != "public":
            if self.endpoint_tls_port:
                raise SettingsError("ENDPOINT_TLS_PORT goes with ENDPOINT_TLS=public: set that, or unset the port.")
            return
        if self.mode not in ("fair", "endpoint"):
            raise SettingsError(
                "ENDPOINT_TLS=public is for a machine that is reached through Fair or at ENDPOINT_URL: unset it here."
            )
        if self.endpoint_authorities and not Path(self.endpoint_authorities).exists():
            raise SettingsError(
                "REQUESTS_CA_BUNDLE or SSL_CERT_FILE names a file of authorities that is not there: unset it for those "
                "that Python's certifi knows."
            )

    def _check_endpoint(self, url: str, fair: list[str]) -> None:
        fair = fair or sorted(name for name, value in os.environ.items() if name.startswith("FAIRCOMPUTE_") and value)
        if fair:
            raise SettingsError(
                f"ENDPOINT_URL (a fixed endpoint) and {', '.join(fair)} (services that Fair starts) exclude each "
                "other: unset one side."
            )
        parts = urlsplit(url)
        if is_loopback(parts.hostname or ""):
            return
        if self.endpoint_tls != "none" and parts.scheme == "http":
            raise SettingsError(
                f"ENDPOINT_URL is plain http to another machine while ENDPOINT_TLS={self.endpoint_tls}: use https, or "
                "set ENDPOINT_TLS=none if prompts and pictures may be read on the way."
            )
        if self.endpoint_tls != "none" and not self.endpoint_secret:
            raise SettingsError(
                "ENDPOINT_URL leads to another machine, so ENDPOINT_SECRET is required: the one its endpoint.json was "
                f"made from. To make a new one: {HOW_TO_MAKE_ONE}"
            )

    def _check_fair(self, given: list[str]) -> None:
        required = ["faircompute_email", "faircompute_password", "inference_node", "inference_image"]
        if self.has_tunnel:
            required.append("tunnel_node")
        if not is_loopback(urlsplit(self.fair_address).hostname or ""):
            required.append("endpoint_secret")
        missing = [name.upper() for name in required if getattr(self, name) is None]
        if missing:
            hint = f" This prints an ENDPOINT_SECRET: {HOW_TO_MAKE_ONE}" if "ENDPOINT_SECRET" in missing else ""
            raise SettingsError(
                f"Fair is configured by half: {', '.join(given)} given, {', '.join(missing)} missing. "
                f"Set the missing ones, or unset all of them to draw on this machine alone.{hint}"
            )
        if self.faircompute_cert_sha256 and urlsplit(self.fair_address).scheme != "https":
            raise SettingsError(
                "FAIRCOMPUTE_CERT_SHA256 pins a certificate, but FAIRCOMPUTE_SERVER_ADDRESS is plain http: use https."
            )


def _env_name(location: tuple[int | str, ...]) -> str:
    return str(location[0]).upper() if location else "?"


def _reason(part: Any) -> str:
    message = str(part["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
