"""The JSON that travels over HTTP: models of requests and of answers.

Unknown keys of a request are ignored, as a newer client may send more; a wrong value is refused by its field's name.

Source: `fair/client.py` of faircompute 0.20.1 and 0.22.1 (PyPI); labels and containers are this server's own.
"""

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

OWN_BUCKET = 2**64 - 1  # in CopyInto: the bucket of the program itself


def first_fault(exc: ValidationError) -> str:
    """Returns one sentence that names the first wrong field, without its value, which may be a secret.

    It does not say how many there are: one mistake can be several faults, of a key and of the table that holds it.
    """
    faults = exc.errors(include_url=False, include_input=False, include_context=False)
    where = ".".join(str(part) for part in faults[0]["loc"])
    message = faults[0]["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{where}: {message}." if where else f"{message}."


def rfc3339(moment: datetime) -> str:
    """Returns the moment in UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("a NUL character is not allowed")
    return text


def _stays_below(local_path: str) -> str:
    parts = PurePosixPath(_no_nul(local_path)).parts
    if not [part for part in parts if part != "/"] or ".." in parts or local_path.endswith("/"):
        raise ValueError("must be the path of a file, without '..'")
    return local_path


def _in_tcp_case(protocol: object) -> object:
    return protocol.capitalize() if isinstance(protocol, str) else protocol


Argument = Annotated[str, Field(max_length=128 * 1024), AfterValidator(_no_nul)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")]  # it is a segment of an address
Port = Annotated[int, Field(ge=1, le=65535)]


class RequestPart(BaseModel):
    """A part of a request. A key with the value null counts as absent: clients in typed languages send all keys."""

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: object) -> object:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


class Login(RequestPart):
    email: Annotated[str, Field(min_length=1, max_length=320)]
    password: Annotated[str, Field(min_length=1, max_length=1024, repr=False)]


class HostPort(RequestPart):
    port: Port


class ContainerPort(RequestPart):
    port: Port
    protocol: Annotated[Literal["Tcp"], BeforeValidator(_in_tcp_case)] = "Tcp"


class HostConfig(RequestPart):
    network_mode: Literal["bridge", "host"] = "bridge"


class Labels(RequestPart):
    role: Annotated[str, Field(max_length=256)] | None = None
    deployment: Annotated[str, Field(max_length=256)] | None = None
    fingerprint: Annotated[str, Field(max_length=256)] | None = None
    generation: Annotated[str, Field(max_length=256)] | None = None  # of the process that started it


class ContainerDesc(RequestPart):
    image: Annotated[str, Field(min_length=1, max_length=512)]
    runtime: Literal["docker", "nvidia"] = "docker"
    ports: Annotated[tuple[tuple[HostPort, ContainerPort], ...], Field(max_length=64)] = ()
    command: Annotated[tuple[Argument, ...], Field(max_length=1024)] = ()
    host_config: HostConfig = HostConfig()
    labels: Labels = Labels()


class Create(RequestPart):
    type: Literal["Create"]
    container_desc: ContainerDesc


class CopyInto(RequestPart):
    type: Literal["CopyInto"]
    container_id: Literal["$0"] = "$0"
    bucket_id: Annotated[int, Field(ge=0)] = OWN_BUCKET
    remote_key: Annotated[str, Field(min_length=1, max_length=1024)]
    local_path: Annotated[str, Field(max_length=1024), AfterValidator(_stays_below)]


class Start(RequestPart):
    type: Literal["Start"]
    container_id: Literal["$0"] = "$0"


class Wait(RequestPart):
    type: Literal["Wait"]
    container_id: Literal["$0"] = "$0"


Command = Annotated[Create | CopyInto | Start | Wait, Field(discriminator="type")]


class ProgramRequest(RequestPart):
    """Commands in the one order that the clients send: Create, CopyInto for every file, Start, and maybe Wait."""

    commands: Annotated[tuple[Command, ...], Field(max_length=256)]

    @model_validator(mode="after")
    def _check_order(self) -> "ProgramRequest":
        kinds = [command.type for command in self.commands]
        copies = kinds.count("CopyInto")
        if kinds not in (
            ["Create", *["CopyInto"] * copies, "Start"],
            ["Create", *["CopyInto"] * copies, "Start", "Wait"],
        ):
            raise ValueError("commands must be Create, any number of CopyInto, Start and, unless detached, Wait")
        return self

    @property
    def container(self) -> ContainerDesc:
        """What to run."""
        create = self.commands[0]
        if not isinstance(create, Create):
            raise TypeError("commands were not checked")
        return create.container_desc

    @property
    def copies(self) -> tuple[CopyInto, ...]:
        """The files that go into the container, in the order given."""
        return tuple(command for command in self.commands if isinstance(command, CopyInto))

    @property
    def waits(self) -> bool:
        """Whether the program completes when its container has ended, not as soon as that has started."""
        return isinstance(self.commands[-1], Wait)


class NewCluster(RequestPart):
    name: Name
    public: bool = False


class OldName(RequestPart):
    """The cluster, or the node of a cluster, that is to be removed."""

    name: str


class NewClusterNode(RequestPart):
    name: Name
    node_id: str


class AnswerPart(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(frozen=True)


class Token(AnswerPart):
    token: Annotated[str, Field(repr=False)]


class NodeRow(AnswerPart):
    name: str
    id: str
    node_id: str  # the same as `id`: the older client's name for it
    host_address: str
    gpus: int | tuple[str, ...]
    status: Literal["ready", "unreachable"]
    gpu_minutes_today: float
    wake_ups_today: int


class NodeRows(AnswerPart):
    nodes: list[NodeRow]


class ClusterRow(AnswerPart):
    name: str
    public: bool


class ClusterRows(AnswerPart):
    clusters: list[ClusterRow]


class ProgramIds(AnswerPart):
    program_id: int
    bucket_id: int


class ProgramStatus(StrEnum):
    """`Completed` of a detached program means that its container has started, or could not be."""

    QUEUED = "Queued"
    NOT_RESPONDING = "NotResponding"
    PROCESSING = "Processing"
    COMPLETED = "Completed"


class ProgramInfo(AnswerPart):
    status: ProgramStatus


class ContainerStatus(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"
    UNREACHABLE = "unreachable"


class ContainerRow(AnswerPart):
    """Times are UTC, RFC 3339, None until then. `created_at`: when the server was asked for it."""

    id: str
    image: str
    role: str | None
    deployment: str | None
    fingerprint: str | None
    generation: str | None
    status: ContainerStatus
    created_at: str
    started_at: str | None
    ended_at: str | None
    exit_code: int | None


class ContainerRows(AnswerPart):
    containers: list[ContainerRow]


class Outcome(AnswerPart):
    """What one command gave: a container's id, an exit code, or nothing."""

    container_id: str | None = None
    exit_code: int | None = None


class CommandResult(AnswerPart):
    Ok: Outcome


class ProgramResult(AnswerPart):
    result: list[CommandResult]
