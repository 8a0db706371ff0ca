"""The swarm's manager as this server uses it: Docker's SDK, off the event loop, its errors as `SwarmError`.

Source: https://docs.docker.com/reference/api/engine/version/v1.41/
"""

import asyncio
import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import docker
import requests
from docker.errors import APIError, DockerException, NotFound

from fair_server.executor import ProgramSpec
from fair_server.swarm_specs import (
    PROGRAM_LABEL,
    ended_mode,
    endpoint_spec,
    is_ended,
    secret_name,
    service_labels,
    service_mode,
    service_name,
    task_template,
)

RECORD_LABEL = "fair.ended"
_TIMEOUT_S = 20
_THREADS = 16
_TRIES = 5
_T = TypeVar("_T")


class SwarmError(Exception):
    """The manager's engine refused, or did not answer; the message is its own, on one line."""


class SwarmApi:
    """One manager. All methods but `close` raise SwarmError."""

    def __init__(self, socket_path: str) -> None:
        """Raises: SwarmError where no engine listens on the socket."""
        self.socket_path = socket_path
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")
        with _understood("reach the engine"):
            self._docker = docker.APIClient(
                base_url=f"unix://{socket_path}",
                version="auto",
                timeout=_TIMEOUT_S,
                num_pools=4,
                max_pool_size=_THREADS,
            )

    @property
    def version(self) -> str:
        """The version of the engine's API, such as 1.41."""
        return str(self._docker.api_version)

    def close(self) -> None:
        """Lets go of the connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._docker.close()

    async def info(self) -> Mapping[str, Any]:
        """What the engine is."""
        return dict(await self._ask("look at the engine", self._docker.info))

    async def nodes(self) -> list[dict[str, Any]]:
        """All nodes of the swarm."""
        return list(await self._ask("list the nodes", self._docker.nodes))

    async def tasks(self) -> list[dict[str, Any]]:
        """All tasks of the swarm."""
        return list(await self._ask("list the tasks", self._docker.tasks))

    async def task(self, task_id: str) -> dict[str, Any] | None:
        """One task, None where it is gone."""
        return await self._ask_for("look at a task", lambda: self._docker.inspect_task(task_id))

    async def services(self) -> list[dict[str, Any]]:
        """The services of our programs."""
        return list(await self._ask("list the services", lambda: self._docker.services({"label": PROGRAM_LABEL})))

    async def create_secret(self, program_id: int, number: int, content: bytes) -> str:
        """Keeps a file; returns the secret's id."""
        labels = {PROGRAM_LABEL: str(program_id)}
        name = secret_name(program_id, number)
        made = await self._ask("make a secret", lambda: self._docker.create_secret(name, content, labels))
        return str(made["ID"])

    async def create_service(self, spec: ProgramSpec, swarm_node_id: str, secret_ids: Sequence[str]) -> str:
        """Starts a program; returns its service's id."""
        labels = service_labels(spec, swarm_node_id)
        template = task_template(spec, swarm_node_id, secret_ids)
        made = await self._ask(
            "make a service",
            lambda: self._docker.create_service(
                template,
                name=service_name(spec.program_id),
                labels=labels,
                mode=service_mode(),
                endpoint_spec=endpoint_spec(spec),
            ),
        )
        return str(made["ID"])

    async def service_id(self, program_id: int) -> str | None:
        """The service of a program, None without one."""
        found = await self._ask_for(
            "look for a service", lambda: self._docker.inspect_service(service_name(program_id))
        )
        return str(found["ID"]) if found else None

    async def end_service(self, service_id: str) -> None:
        """Ends the service's task, TERM first; the service itself stays.

        Removing the service would leave the task running: Docker 20.10 forgets the tasks of a job's service
        (https://github.com/moby/moby/issues/42789).
        """

        def end() -> None:
            service = self._docker.inspect_service(service_id)
            spec = service["Spec"]
            if is_ended(spec):
                return
            template = {**spec["TaskTemplate"], "ForceUpdate": spec["TaskTemplate"].get("ForceUpdate", 0) + 1}
            self._docker.update_service(
                service_id,
                service["Version"]["Index"],
                template,
                name=spec["Name"],
                labels=spec.get("Labels"),
                mode=ended_mode(),
            )

        for _ in range(_TRIES):
            try:
                await self._ask_for("end a service", end)
            except SwarmError as exc:
                if "out of sequence" not in str(exc):  # somebody else ended it at the same moment
                    raise
            else:
                return

    async def remove_service(self, service_id: str) -> None:
        """Removes a service; one that is gone is as good."""
        await self._ask_for("remove a service", lambda: self._docker.remove_service(service_id))

    async def remove_secrets(self, program_id: int) -> None:
        """Removes the files of a program."""
        label = {"label": f"{PROGRAM_LABEL}={program_id}"}
        for secret in await self._ask("list secrets", lambda: self._docker.secrets(label)):
            await self._ask_for("remove a secret", functools.partial(self._docker.remove_secret, secret["ID"]))

    async def secret_programs(self) -> set[int]:
        """The programs that have secrets."""
        found = await self._ask("list secrets", lambda: self._docker.secrets({"label": PROGRAM_LABEL}))
        return {int(secret["Spec"]["Labels"][PROGRAM_LABEL]) for secret in found}

    async def keep_record(self, name: str, labels: Mapping[str, str], content: bytes) -> None:
        """Keeps a record, as a config; one of that name stays as it is."""
        try:
            await self._ask("keep a record", lambda: self._docker.create_config(name, content, dict(labels)))
        except SwarmError as exc:
            if "already exists" not in str(exc) and "existing object" not in str(exc):
                raise

    async def records(self) -> list[dict[str, Any]]:
        """All records."""
        return list(await self._ask("list the records", lambda: self._docker.configs({"label": RECORD_LABEL})))

    async def remove_record(self, name: str) -> None:
        """Removes a record; one that is gone is as good."""
        await self._ask_for("remove a record", lambda: self._docker.remove_config(name))

    async def _ask(self, tried: str, question: Callable[[], _T]) -> _T:
        def ask() -> _T:
            with _understood(tried):
                return question()

        return await asyncio.get_running_loop().run_in_executor(self._pool, ask)

    async def _ask_for(self, tried: str, question: Callable[[], _T]) -> _T | None:
        """The same, None for something that is not there (any more)."""

        def ask() -> _T | None:
            with _understood(tried), contextlib.suppress(NotFound):
                return question()
            return None

        return await asyncio.get_running_loop().run_in_executor(self._pool, ask)


@contextlib.contextmanager
def _understood(tried: str) -> Iterator[None]:
    try:
        yield
    except NotFound:
        raise
    except APIError as exc:
        raise SwarmError(f"{_one_line(exc.explanation or str(exc))} (tried to {tried})") from exc
    except (DockerException, requests.RequestException, json.JSONDecodeError) as exc:
        raise SwarmError(f"the swarm's manager does not answer: {type(exc).__name__} (tried to {tried})") from exc


def _one_line(text: str) -> str:
    return " ".join(str(text).split())[:500]
