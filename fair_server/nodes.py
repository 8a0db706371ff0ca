"""The nodes of this server: their TOML file, and a node by its name or id."""

import ipaddress
import re
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fair_server.errors import ApiError, ConfigError
from fair_server.wire import Name, first_fault

PORT_PLACEHOLDER = re.compile(r"\{port:([^}]*)\}")


class Image(BaseModel):
    """An image of a node, in the nodes file an array (its `command`) or a table. All but `command` is for a swarm.

    `command`: an argv prefix, to which the program's command is appended; on a swarm empty means the image's own
    entrypoint. `reference`: what an engine pulls, the image's name without it. `volumes`: folders that are kept from
    one container of the image to the next. `uid`: the image's user, to whom the copied files belong.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: tuple[str, ...] = ()
    reference: Annotated[str, Field(min_length=1)] | None = None
    volumes: tuple[Annotated[str, Field(pattern=r"^/.+")], ...] = ()
    uid: Annotated[int, Field(ge=0)] = 1000

    @model_validator(mode="before")
    @classmethod
    def _array_is_command(cls, data: object) -> object:
        return {"command": data} if isinstance(data, list | tuple) else data


class Node(BaseModel):
    """A place that runs programs, and the only images that it runs.

    `{port:8000}` in an image's command stands for the host port that a program publishes for its container port 8000.
    `swarm_node`: id or host name of the swarm's node, `gpu_resource`: what its engine calls its GPUs (for a swarm).
    `max_..._per_day`: for programs with `runtime: nvidia`, see `budgets.py`; None: no bound.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    id: Name = ""
    host_address: Annotated[str, Field(min_length=1)] | None = None
    gpus: Annotated[int, Field(ge=0)] | tuple[str, ...] = 0
    images: dict[str, Image] = {}
    swarm_node: Annotated[str, Field(min_length=1)] | None = None
    gpu_resource: Annotated[str, Field(min_length=1)] = "NVIDIA-GPU"
    max_gpu_minutes_per_day: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    max_wake_ups_per_day: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_is_default_id(cls, data: object) -> object:
        if isinstance(data, dict) and "id" not in data and "name" in data:
            return {**data, "id": data["name"]}
        return data

    @field_validator("images")
    @classmethod
    def _check_placeholders(cls, images: dict[str, Image]) -> dict[str, Image]:
        for name, image in images.items():
            for number in PORT_PLACEHOLDER.findall(" ".join(image.command)):
                if not number.isdecimal() or not 1 <= int(number) <= 65535:
                    raise ValueError(f"image {name}: {{port:{number}}} does not name a port from 1 to 65535")
        return images

    @property
    def is_loopback(self) -> bool:
        """Whether the node's address is reachable from this machine alone, as it is without one."""
        if self.host_address in (None, "localhost"):
            return True
        try:
            return ipaddress.ip_address(str(self.host_address)).is_loopback
        except ValueError:
            return False  # a host name


class NodesFile(BaseModel):
    """The file as a whole: `[[node]]` tables."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    node: Annotated[tuple[Node, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check_unique(self) -> "NodesFile":
        seen: set[str] = set()
        for node in self.node:
            own = {node.name, node.id}
            if own & seen:
                raise ValueError(f"two nodes share the name or id {sorted(own & seen)[0]}")
            seen |= own
        return self


DEFAULT_NODE = Node(name="local")


def load_nodes(path: Path | None) -> tuple[Node, ...]:
    """Reads the nodes of the TOML file at `path`; without one there is a single node `local`, which runs no image.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or holds a wrong key or value, which is named.
    """
    if path is None:
        return (DEFAULT_NODE,)
    try:
        return NodesFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig"))).node
    except OSError as exc:
        raise ConfigError(f"The nodes file {path} cannot be read: {exc.strerror}.") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"The nodes file {path} is no TOML: {exc}.") from exc
    except ValidationError as exc:
        raise ConfigError(f"The nodes file {path} is wrong: {first_fault(exc)}") from exc


def find_node(nodes: tuple[Node, ...], name_or_id: str) -> Node:
    """Returns the node of that name or id.

    Raises:
        ApiError: 404 NO_SUCH_NODE, naming the nodes there are.
    """
    for node in nodes:
        if name_or_id in (node.name, node.id):
            return node
    raise no_such_node(name_or_id, [node.name for node in nodes])


def no_such_node(asked: str, names: list[str]) -> ApiError:
    """Returns the refusal of a node that is not there, naming those that are."""
    there = ", ".join(names) or "none"
    return ApiError(404, "NO_SUCH_NODE", f"There is no node {asked!r}. The nodes are: {there}.")
