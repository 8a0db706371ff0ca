"""A program as a service of a swarm, and what the swarm tells of it, without one."""

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fair_server.errors import CannotStart
from fair_server.executor import CopiedFile, Ended, ProgramSpec, PublishedPort, Survivor
from fair_server.nodes import Image, Node
from fair_server.swarm_faults import start_failure
from fair_server.swarm_records import read_record, record_labels, write_record
from fair_server.swarm_specs import (
    SECRET_LIMIT_BYTES,
    endpoint_spec,
    gpu_count,
    own_labels,
    secret_of,
    service_labels,
    task_template,
)
from fair_server.swarm_view import read_task

NODE = Node(
    name="box",
    images={
        "draw": Image(reference="registry.example/draw:2", volumes=("/data",)),
        "tool": Image(command=("tool", "--port", "{port:8000}"), uid=0),
    },
)


def spec(
    folder: Path, image: str = "draw", runtime: str = "docker", network: str = "bridge", **more: Any
) -> ProgramSpec:
    """A program with one file."""
    (folder / "0").write_text("{}")
    given: dict[str, Any] = {
        "program_id": 7,
        "node": NODE,
        "image": image,
        "command": ("--config", "/app/endpoint.json"),
        "runtime": runtime,
        "network": network,
        "ports": (PublishedPort(5001, 8000),),
        "files": (CopiedFile("/app/endpoint.json", folder / "0"),),
        "labels": {"account": "me", "request": "{}"},
    }
    return ProgramSpec(**{**given, **more})


def test_task(tmp_path: Path) -> None:
    """A task runs once, on its node, with its files for the image's user alone and a volume of its image."""
    task = task_template(spec(tmp_path), "node-1", ["secret-1"])
    container = task["ContainerSpec"]
    assert task["RestartPolicy"]["Condition"] == "none"
    assert task["Placement"]["Constraints"] == ["node.id==node-1"]
    assert (container["Image"], container["Command"]) == ("registry.example/draw:2", None)
    assert container["Args"] == ["--config", "/app/endpoint.json"]
    (file,) = container["Secrets"]
    assert file["File"] == {"Name": "/app/endpoint.json", "UID": "1000", "GID": "1000", "Mode": 0o400}
    assert [(mount["Source"], mount["Target"]) for mount in container["Mounts"]] == [("fair-draw-data", "/data")]
    assert "NVIDIA_VISIBLE_DEVICES=void" in container["Env"]


def test_image_with_a_command(tmp_path: Path) -> None:
    """An image's command takes the place of its entrypoint; a relative path is given where it lies."""
    files = (CopiedFile("notes/n.txt", tmp_path / "0"),)
    task = task_template(spec(tmp_path, "tool", files=files, command=("notes/n.txt",)), "node-1", ["secret-1"])
    assert task["ContainerSpec"]["Command"] == ["tool", "--port", "8000"]
    assert task["ContainerSpec"]["Args"] == ["/run/secrets/notes/n.txt"]
    assert task["ContainerSpec"]["Secrets"][0]["File"]["UID"] == "0"


def test_gpu(tmp_path: Path) -> None:
    """`nvidia` sees the GPUs and others do not; a node has as many as its engine names."""
    task = task_template(spec(tmp_path, runtime="nvidia"), "node-1", ["secret-1"])
    assert "NVIDIA_VISIBLE_DEVICES=all" in task["ContainerSpec"]["Env"]
    named = [{"NamedResourceSpec": {"Kind": "NVIDIA-GPU", "Value": "GPU-1"}}]
    counted = [{"DiscreteResourceSpec": {"Kind": "NVIDIA-GPU", "Value": 2}}]
    assert gpu_count({"Description": {"Resources": {"GenericResources": named}}}, "NVIDIA-GPU") == 1
    assert gpu_count({"Description": {"Resources": {"GenericResources": [*named, *counted]}}}, "NVIDIA-GPU") == 3
    assert gpu_count({"Description": {"Resources": {"GenericResources": named}}}, "AMD-GPU") == 0
    assert gpu_count({"Description": {"Resources": {}}}, "NVIDIA-GPU") == 0
    assert service_labels(spec(tmp_path, runtime="nvidia"), "node-1")["fair.gpu-node"] == "node-1"


def test_ports(tmp_path: Path) -> None:
    """Ports are published on the node itself; in the host's network there is nothing to publish."""
    (port,) = endpoint_spec(spec(tmp_path))["Ports"]
    assert port == {"Protocol": "tcp", "PublishedPort": 5001, "TargetPort": 8000, "PublishMode": "host"}
    assert endpoint_spec(spec(tmp_path, network="host")) is None
    assert task_template(spec(tmp_path, network="host"), "n", ["s"])["Networks"] == [{"Target": "host"}]
    twice = (PublishedPort(5001, 8000), PublishedPort(5002, 8000))
    with pytest.raises(CannotStart, match="port once"):
        endpoint_spec(spec(tmp_path, ports=twice))


@pytest.mark.parametrize(("size", "named"), [(0, "empty"), (SECRET_LIMIT_BYTES, "500 KB")])
def test_file_that_is_no_secret(tmp_path: Path, size: int, named: str) -> None:
    """A file that a swarm does not take is refused with its name and what to do."""
    (tmp_path / "file").write_bytes(bytes(size))
    with pytest.raises(CannotStart, match=f"/app/big.*{named}"):
        secret_of(CopiedFile("/app/big", tmp_path / "file"))


def test_labels(tmp_path: Path) -> None:
    """What is told to a service is read back from it, and nothing of the swarm's own."""
    labels = {**service_labels(spec(tmp_path), "node-1"), "com.docker.stack.namespace": "x"}
    assert labels["fair.program"] == "7"
    assert own_labels(labels) == {"account": "me", "request": "{}"}
    with pytest.raises(CannotStart, match="Give it a file"):
        service_labels(spec(tmp_path, labels={"request": "x" * 600_000}), "node-1")


def test_record() -> None:
    """What is kept of an ended program is read back as it was, and another version's is left alone."""
    ended = Survivor(7, {"account": "me"}, None, Ended(3, datetime(2030, 1, 2, tzinfo=UTC)), b"out", b"\xff")
    content = base64.b64encode(write_record(ended)).decode()
    assert read_record({"Spec": {"Labels": record_labels(7), "Data": content}}) == ended
    assert read_record({"Spec": {"Labels": record_labels(7), "Data": "e30="}}) is None


@pytest.mark.parametrize(
    ("error", "exit_code", "named"),
    [
        ("no suitable node (host-mode port already in use on 1 node)", 125, "Host port 5001 is taken on node box"),
        ("driver failed ...: listen tcp4 0.0.0.0:5001: bind: address already in use", 125, "Host port 5001 is taken"),
        ("No such image: registry.example/draw:2", 125, "registry.example/draw:2 is not on node box"),
        ("write /var/lib/docker/x: no space left on device", 125, "disk of node box is full"),
        ('exec: "nope": executable file not found in $PATH: unknown', 127, "no such executable"),
        ('exec: "/etc/passwd": permission denied: unknown', 126, "may not execute"),
        ("unable to find user draw: no matching entries in passwd file", 125, "names a user"),
        ("OCI runtime create failed: nvidia-container-runtime did not terminate successfully", 125, "disk may be full"),
        ("something new", 125, "Docker says: something new"),
    ],
)
def test_start_failure(tmp_path: Path, error: str, exit_code: int, named: str) -> None:
    """Docker's words become a sentence that names the node, and what to do; they follow it as they are."""
    failure = start_failure(error, spec(tmp_path))
    assert failure.exit_code == exit_code
    assert named in failure.message
    assert error in failure.message


@pytest.mark.parametrize(
    ("state", "error", "container", "is_over", "has_run", "code"),
    [
        ("pending", "no suitable node", {}, False, False, 255),
        ("running", "", {"ContainerID": "a", "ExitCode": 0}, False, True, 0),
        ("complete", "", {"ContainerID": "a", "ExitCode": 0}, True, True, 0),
        ("failed", "task: non-zero exit (3)", {"ContainerID": "a", "ExitCode": 3}, True, True, 3),
        ("failed", "starting container failed: port", {"ContainerID": "a", "ExitCode": 128}, True, False, 128),
        ("rejected", "No such image", {}, True, False, 255),
        ("shutdown", "", {"ContainerID": "a", "ExitCode": 137}, True, True, 137),
    ],
)
def test_task_states(
    state: str, error: str, container: dict[str, Any], is_over: bool, has_run: bool, code: int
) -> None:
    """A task that ended by itself is told from one whose program never began."""
    status = {"State": state, "Err": error, "Timestamp": "2026-11-29T12:21:44.71768357Z", "ContainerStatus": container}
    task = read_task({"ID": "t", "Status": status, "CreatedAt": "2026-11-29T12:21:40.1Z"})
    assert (task.is_over, task.has_run, task.end_code) == (is_over, has_run, code)
    assert task.at == datetime(2026, 11, 29, 12, 21, 44, 717683, tzinfo=UTC)
