"""The executor that runs programs as the jobs of a Docker swarm, through the engine that is the swarm's manager.

It has no state of its own: what runs, and what has ended, is read back from labels of services and configs.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from fair_server.buckets import STDIN, Bucket
from fair_server.errors import CannotStart, ConfigError
from fair_server.executor import STOP_GRACE_S, Ended, ProgramSpec, Survivor
from fair_server.nodes import Node
from fair_server.swarm_api import SwarmApi, SwarmError
from fair_server.swarm_faults import start_failure
from fair_server.swarm_logs import STDOUT_KIND, service_logs
from fair_server.swarm_program import EXIT_TERMINATED, SwarmProgram
from fair_server.swarm_records import RECORDS_AT_MOST, read_record, record_labels, record_name, write_record
from fair_server.swarm_specs import (
    GPU_NODE_LABEL,
    PROGRAM_LABEL,
    endpoint_spec,
    gpu_count,
    is_ended,
    own_labels,
    secret_of,
)
from fair_server.swarm_view import SwarmView

_TASK_S = 15.0  # until the manager has made a task of a service
_REFUSED_S = 3.0  # how long the scheduler may say that a task fits nowhere: what is in its way may just be ending
_START_S = 3600.0  # until the task runs; its node may fetch an image of many gigabytes
_REMOVED_S = STOP_GRACE_S + 15.0
_OUTPUT_S = 10.0
_TAIL_BYTES = 32 * 1024
_LOG = logging.getLogger(__name__)


class SwarmExecutor:
    """See `Executor`."""

    name = "swarm"
    ends_programs = False

    def __init__(self, api: SwarmApi) -> None:
        self._api = api
        self._view = SwarmView(api)
        self._programs: dict[str, SwarmProgram] = {}  # by service
        self._services: dict[int, str] = {}  # by program
        self._gpus: dict[int, str] = {}  # by program, the swarm's node of which it has a GPU

    @classmethod
    async def connect(cls, socket_path: str, nodes: Sequence[Node]) -> "SwarmExecutor":
        """Raises: ConfigError where the engine does not answer, or is no manager of a swarm."""
        try:
            api = await asyncio.to_thread(SwarmApi, socket_path)
            swarm = (await api.info()).get("Swarm") or {}
            if not swarm.get("ControlAvailable"):
                raise ConfigError(
                    f"The engine at {socket_path} is no manager of a swarm. "
                    "`docker swarm init --advertise-addr ADDRESS` makes it one."
                )
            executor = cls(api)
            await executor._view.start()
        except SwarmError as exc:
            raise ConfigError(f"The Docker engine at {socket_path} cannot be used: {exc}.") from exc
        for node in nodes:
            if not executor.is_ready(node):
                _LOG.warning("Node %s is not ready: %s", node.name, executor._view.why_not_ready(node))
        return executor

    def is_ready(self, node: Node) -> bool:
        """Whether the manager hears the node and may use it."""
        return self._view.is_ready(node)

    def is_drained(self, node: Node) -> bool:
        """Whether `docker node update --availability drain` was said of it. Docker 20.10 ends no job for that."""
        return self._view.is_drained(node)

    def host_address(self, node: Node) -> str:
        """What the nodes file says, else the address from which the manager sees the node."""
        row = self._view.node(node) or {}
        return node.host_address or str((row.get("Status") or {}).get("Addr") or "")

    async def survivors(self) -> list[Survivor]:
        """Reads labels, and removes what belongs to nothing: a server may have ended at any point of its work."""
        records = [record for config in await self._api.records() if (record := read_record(config))]
        records.sort(key=lambda record: record.program_id)
        for old in records[:-RECORDS_AT_MOST]:
            await self.forget(old.program_id)
        found = {record.program_id: record for record in records[-RECORDS_AT_MOST:]}
        await self._view.look()
        services = {int(service["Spec"]["Labels"][PROGRAM_LABEL]): service for service in await self._api.services()}
        self._gpus = {
            program_id: service["Spec"]["Labels"][GPU_NODE_LABEL]
            for program_id, service in services.items()
            if GPU_NODE_LABEL in service["Spec"]["Labels"]
        }
        self._services = {program_id: str(service["ID"]) for program_id, service in services.items()}
        for program_id, service in services.items():
            if program_id not in found:
                found[program_id] = await self._survivor(program_id, service)
        for program_id in await self._api.secret_programs() - services.keys():
            await self._api.remove_secrets(program_id)
        return [found[program_id] for program_id in sorted(found)]

    async def start(self, spec: ProgramSpec, bucket: Bucket, stop_asked: asyncio.Event) -> SwarmProgram:
        """See `Executor.start`. The server may end meanwhile: the program goes on."""
        spec.check_ports()
        swarm_node = self._view.node(spec.node)
        if swarm_node is None:
            raise CannotStart(f"Node {spec.node.name}: {self._view.why_not_ready(spec.node)}.")
        if spec.runtime == "nvidia":
            self._reserve_gpu(spec, swarm_node)
        if bucket.existing_file(STDIN).size_bytes:
            raise CannotStart("A program on a swarm gets no standard input. Give it a file instead.")
        endpoint_spec(spec)  # raises here, before there is anything of it
        contents = [secret_of(file) for file in spec.files]
        try:
            secrets = [
                await self._api.create_secret(spec.program_id, number, content)
                for number, content in enumerate(contents)
            ]
            service_id = await self._api.create_service(spec, swarm_node["ID"], secrets)
        except SwarmError as exc:
            raise CannotStart(f"The swarm did not take it: {exc}.") from exc
        self._services[spec.program_id] = service_id
        return await self.attach(spec, bucket, stop_asked)

    async def attach(self, spec: ProgramSpec, bucket: Bucket, stop_asked: asyncio.Event) -> SwarmProgram:
        """See `Executor.attach`."""
        service_id = self._services[spec.program_id]
        with self._view.hurry():
            await self._until_running(service_id, spec, stop_asked)
        program = SwarmProgram(self._api, self._view, service_id, spec.node, bucket)
        self._programs[service_id] = program
        return program

    async def settle(self, ended: Survivor) -> None:
        """Keeps its record, ends what still runs of it, removes its service and its files."""
        await self._api.keep_record(record_name(ended.program_id), record_labels(ended.program_id), write_record(ended))
        # A manager that was too busy to answer may have made it all the same.
        if service_id := self._services.get(ended.program_id) or await self._api.service_id(ended.program_id):
            self._programs.pop(service_id, None)
            await self._end_task(service_id)
            await self._api.remove_service(service_id)
        await self._api.remove_secrets(ended.program_id)
        self._services.pop(ended.program_id, None)
        self._gpus.pop(ended.program_id, None)

    async def forget(self, program_id: int) -> None:
        """Removes its record."""
        with contextlib.suppress(SwarmError):  # the next run of the server forgets it, too
            await self._api.remove_record(record_name(program_id))

    async def close(self) -> None:
        """Lets go of all that runs: the next run of the server adopts it."""
        for program in self._programs.values():
            await program.let_go()
        await self._view.close()
        self._api.close()

    def _reserve_gpu(self, spec: ProgramSpec, swarm_node: dict[str, Any]) -> None:
        """Holds a GPU for the program until it is settled.

        Not by a reservation of Docker's: Docker 20.10 ends a task that has one at every change of its node, such as a
        lost heartbeat ("assigned node no longer meets constraints").
        Raises: CannotStart where the node has none, or none that is free.
        """
        there = gpu_count(swarm_node, spec.node.gpu_resource)
        if there == 0:
            raise CannotStart(
                f"Node {spec.node.name} offers no {spec.node.gpu_resource}, so it would draw without a GPU. Name its "
                "GPU in `node-generic-resources` of its daemon.json, and make nvidia its `default-runtime`."
            )
        holders = [program_id for program_id, node_id in self._gpus.items() if node_id == swarm_node["ID"]]
        if len(holders) >= there:
            raise CannotStart(
                f"Node {spec.node.name} has no free {spec.node.gpu_resource}: of {there}, program "
                f"{', '.join(map(str, holders))} has it. End that one first."
            )
        self._gpus[spec.program_id] = swarm_node["ID"]

    async def _survivor(self, program_id: int, service: dict[str, Any]) -> Survivor:
        """Reads a service that has no record: it runs, or ended while no server looked."""
        labels = own_labels(service["Spec"].get("Labels"))
        task = self._view.task(service["ID"])
        if task is not None and task.is_over and task.has_run:
            stdout, stderr = await self._output(service["ID"])
            return Survivor(program_id, labels, task.created_at, Ended(task.end_code, task.at), stdout, stderr)
        if is_ended(service["Spec"]) and (task is None or task.is_over):
            return Survivor(program_id, labels, None, Ended(EXIT_TERMINATED, datetime.now(UTC)))
        began = task is not None and task.state == "running"
        return Survivor(program_id, labels, task.at if task is not None and began else None)

    async def _output(self, service_id: str) -> tuple[bytes, bytes]:
        outputs: dict[bool, bytes] = {True: b"", False: b""}
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_OUTPUT_S):
                async for piece in service_logs(self._api.socket_path, self._api.version, service_id, follow=False):
                    is_stdout = piece.kind == STDOUT_KIND
                    outputs[is_stdout] = (outputs[is_stdout] + piece.data)[-_TAIL_BYTES:]
        return outputs[True], outputs[False]

    async def _until_running(self, service_id: str, spec: ProgramSpec, stop_asked: asyncio.Event) -> None:
        """Returns when its program has begun.

        Raises: CannotStart; what is left of it is `settle`'s to remove.
        """
        began = waiting_since = time.monotonic()
        while True:
            if stop_asked.is_set():
                raise CannotStart("It was deleted before it ran.")
            task, now = self._view.task(service_id), time.monotonic()
            if task is not None and task.has_run:
                return
            if task is not None and task.is_over:
                raise start_failure(task.error, spec)
            if not (task is not None and task.state == "pending" and task.error and self.is_ready(spec.node)):
                waiting_since = now
            elif now - waiting_since > _REFUSED_S:
                raise start_failure(task.error, spec)
            if now - began > (_TASK_S if task is None else _START_S):
                seen = "the swarm made no task of it" if task is None else f"its task is still {task.state}"
                raise CannotStart(f"Waited {now - began:.0f} s for it to run: {seen}. See `docker service ps` there.")
            await self._view.next_look()

    async def _end_task(self, service_id: str) -> None:
        """Returns when the service has no living task, or when its node cannot be heard."""
        await self._view.look()
        task = self._view.task(service_id)
        if task is None or task.is_over:
            return
        await self._api.end_service(service_id)
        with self._view.hurry(), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REMOVED_S):
                while (task := self._view.task(service_id)) is not None and not task.is_over:
                    await self._view.next_look()
