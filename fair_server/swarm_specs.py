"""A program as the service that a Docker swarm runs: a job of one task, on one node, never started again.

A plain replicated service would be ended after some 15 seconds without a heartbeat of its node: a blip of a home line.
Source: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Service/operation/ServiceCreate
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from docker.types import (
    ContainerSpec,
    DriverConfig,
    EndpointSpec,
    Mount,
    Placement,
    RestartPolicy,
    SecretReference,
    ServiceMode,
    TaskTemplate,
)

from fair_server.errors import CannotStart
from fair_server.executor import STOP_GRACE_S, CopiedFile, ProgramSpec
from fair_server.nodes import PORT_PLACEHOLDER, Image

PREFIX = "fair."  # of our labels
PROGRAM_LABEL = "fair.program"
GPU_NODE_LABEL = "fair.gpu-node"  # the swarm's node of which the program has a GPU
SECRET_LIMIT_BYTES = 500 * 1024  # swarmkit's MaxSecretSize, which is not reached
_LABELS_LIMIT_BYTES = 512 * 1024
_RELATIVE_FILES = PurePosixPath("/run/secrets")
_LOG_OPTIONS = {"max-size": "128m", "max-file": "2"}  # of what a container prints, on its node's disk
_NANOSECONDS = 10**9


def service_name(program_id: int) -> str:
    """The name of a program's service: a second one of the same number is refused by the swarm."""
    return f"fair-{program_id}"


def secret_name(program_id: int, number: int) -> str:
    """The name of the secret that holds a program's file of that number."""
    return f"fair-{program_id}-{number}"


def service_labels(spec: ProgramSpec, swarm_node_id: str) -> dict[str, str]:
    """The labels of its service.

    Raises: CannotStart where they are too large for the swarm's log.
    """
    labels = {PROGRAM_LABEL: str(spec.program_id), **{PREFIX + name: value for name, value in spec.labels.items()}}
    if spec.runtime == "nvidia":
        labels[GPU_NODE_LABEL] = swarm_node_id
    if sum(len(value.encode()) for value in labels.values()) > _LABELS_LIMIT_BYTES:
        raise CannotStart("Its command is larger than 500 KB, more than a swarm takes. Give it a file instead.")
    return labels


def own_labels(labels: Mapping[str, str] | None) -> dict[str, str]:
    """What `service_labels` was given, from the labels of a service."""
    given = {name: value for name, value in (labels or {}).items() if name not in (PROGRAM_LABEL, GPU_NODE_LABEL)}
    return {name.removeprefix(PREFIX): value for name, value in given.items() if name.startswith(PREFIX)}


def secret_of(file: CopiedFile) -> bytes:
    """The content of a file that is to become a secret.

    Raises: CannotStart where a swarm takes no secret of its size.
    """
    size_bytes = file.content.stat().st_size
    if size_bytes >= SECRET_LIMIT_BYTES:
        raise CannotStart(
            f"The file {file.local_path} has {size_bytes} bytes; a swarm takes less than {SECRET_LIMIT_BYTES} (500 KB) "
            "for one. Put what is larger into the image, or into a volume."
        )
    if size_bytes == 0:
        raise CannotStart(f"The file {file.local_path} is empty, and a swarm takes no empty file: put a byte into it.")
    return file.content.read_bytes()


def place_of(local_path: str) -> str:
    """Where a copied file lies in the container. A relative path has no folder that the manager could know."""
    return str(_RELATIVE_FILES / local_path)


def task_template(spec: ProgramSpec, swarm_node_id: str, secret_ids: Sequence[str], force_update: int = 0) -> Any:
    """The task: the image with its command, its files, on that node."""
    image = spec.node.images[spec.image]
    places = {file.local_path: place_of(file.local_path) for file in spec.files}
    container = ContainerSpec(
        image.reference or spec.image,
        command=[_filled(part) for part in image.command] or None,
        args=[places.get(argument, argument) for argument in spec.command] or None,
        env=_environment(spec.runtime),
        mounts=_mounts(spec.image, image),
        secrets=[
            SecretReference(
                secret_id,
                secret_name(spec.program_id, number),
                filename=places[file.local_path],
                uid=str(image.uid),
                gid=str(image.uid),
                mode=0o400,
            )
            for number, (file, secret_id) in enumerate(zip(spec.files, secret_ids, strict=True))
        ],
        stop_grace_period=int(STOP_GRACE_S * _NANOSECONDS),
    )
    return TaskTemplate(
        container,
        restart_policy=RestartPolicy("none"),
        placement=Placement(constraints=[f"node.id=={swarm_node_id}"]),
        log_driver=DriverConfig("json-file", options=_LOG_OPTIONS),
        networks=[{"Target": "host"}] if spec.network == "host" else None,
        force_update=force_update,
    )


def service_mode() -> Any:
    """A job that runs once."""
    return ServiceMode("replicated-job", replicas=1)


def ended_mode() -> Any:
    """A job that runs no more: with it, the task that runs is ended."""
    return {"ReplicatedJob": {"MaxConcurrent": 0, "TotalCompletions": 0}}


def is_ended(service_spec: Mapping[str, Any]) -> bool:
    """Whether a service was told to end."""
    return (service_spec["Mode"].get("ReplicatedJob") or {}).get("TotalCompletions") == 0


def endpoint_spec(spec: ProgramSpec) -> Any:
    """The published ports, on the node itself; None without any. A container of the host's network needs none.

    Raises: CannotStart where a container's port is published twice: of those a swarm's node opens one alone.
    """
    if spec.network == "host" or not spec.ports:
        return None
    inside = [port.container for port in spec.ports]
    if len(set(inside)) < len(inside):
        raise CannotStart("A swarm publishes a container's port once. Ask for one host port for each.")
    return EndpointSpec(ports={port.host: (port.container, "tcp", "host") for port in spec.ports})


def gpu_count(swarm_node: Mapping[str, Any], resource: str) -> int:
    """How many GPUs the node's engine says that it has under that name (`node-generic-resources`)."""
    resources = ((swarm_node.get("Description") or {}).get("Resources") or {}).get("GenericResources") or []
    specs = [(kind, spec) for one in resources for kind, spec in one.items() if spec.get("Kind") == resource]
    return sum(int(spec["Value"]) if kind == "DiscreteResourceSpec" else 1 for kind, spec in specs)


def _filled(part: str) -> str:
    """A container has its own ports: what is placed on a host port elsewhere stands on its own number."""
    return PORT_PLACEHOLDER.sub(lambda found: str(found[1]), part)


def _environment(runtime: str) -> list[str]:
    """On an engine whose default runtime is nvidia's, every container would see the GPUs."""
    if runtime == "nvidia":
        return ["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"]
    return ["NVIDIA_VISIBLE_DEVICES=void"]


def _mounts(name: str, image: Image) -> list[Any]:
    """A volume for each folder that is kept, of the image and no other one."""
    return [Mount(target=path, source=_slug(f"fair-{name}{path}"), type="volume") for path in image.volumes]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-")
