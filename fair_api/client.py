"""A client of one Fair server: nodes, containers, launching without blocking. All of it goes through `faircompute`.

What it adds to that package's client (0.22.1): a deadline for every request, errors that carry the HTTP status, a new
login when a token has expired, launching without waiting and without losing the program's id, and the additions of a
Fair server that can list and delete containers. No other module knows the package.

Source: the package's own client.py; its requests are written down nowhere else.
"""

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import requests
from fair import FairClient

from errors import FairError
from fair_api import transport
from fair_api.generation import THIS_PROCESS, Birth
from fair_api.models import LAST_CHARS, Container, ContainerSpec, Node, Program, ProgramEnd, last_words

log = logging.getLogger(__name__)

CLUSTER = "default"
_AT_LEAST_S = 1.0
OWN_BUCKET = 2**64 - 1  # in CopyInto: the bucket of this very program
# How a Fair server without a list of containers answers; one that also serves pages may lead to one of them.
_NOT_LISTING = (301, 302, 303, 307, 308, 404, 405, 501)


class _PackageClient(FairClient):  # type: ignore[misc]  # the package has no types
    """The package's client with every request sent by `request`; it has no other place to put a deadline."""

    def __init__(self, server_address: str, request: Callable[..., requests.Response]) -> None:
        self._make_request = request
        super().__init__(server_address=server_address, user_email="", user_password="")

    def authenticate(self, user_email: str, user_password: str) -> None:
        """Nothing: `DeadlineFairClient` logs in, again when a token has expired."""


class DeadlineFairClient:
    """A logged-in client of one Fair server; safe to use from several threads.

    `timeout_s`: deadline for each request, in seconds. `until`: where it is set, no request is waited for beyond that
    moment (`time.monotonic`), but a second at least. `certificate_sha256`: of the one certificate to trust; None: what
    the authorities vouch for. `birth`: hears Fair's clock. `send`: how one request is sent.
    Everything raises `FairError`.
    """

    def __init__(
        self,
        server_address: str,
        user_email: str,
        user_password: str,
        *,
        timeout_s: float = 10.0,
        certificate_sha256: str | None = None,
        send: Callable[..., requests.Response] = transport.send,
        birth: Birth = THIS_PROCESS,
    ) -> None:
        self._address = server_address
        self._timeout_s = timeout_s
        self._birth = birth
        self._send_once = functools.partial(send, certificate_sha256=certificate_sha256) if certificate_sha256 else send
        self.until: float | None = None
        self._account = {"email": user_email, "password": user_password}
        self._login_lock = threading.Lock()
        self._package = _PackageClient(server_address, self._request)
        self._url: str = self._package.server_address
        self.token = self._log_in()

    def __repr__(self) -> str:
        return f"<DeadlineFairClient {self._address}>"

    @property
    def generation(self) -> str:
        """See `Birth.generation`."""
        return self._birth.generation

    def nodes(self) -> list[Node]:
        """The nodes of this account's default cluster."""
        with self._understood("list nodes"):
            rows = self._package.cluster(CLUSTER).nodes.list()
            addresses = {}
            if rows and not any(row.get("host_address") for row in rows):
                addresses = self._addresses_of_old()
            return [
                Node(
                    name=str(row.get("name") or row.get("id")),
                    id=str(row.get("id") or row.get("name")),
                    host_address=str(row.get("host_address") or addresses.get(row.get("id")) or "") or None,
                    status=row.get("status"),
                )
                for row in rows
            ]

    def node(self, name_or_id: str) -> Node:
        """The node of that name or id. Raises: FairError naming the nodes that there are."""
        nodes = self.nodes()
        for node in nodes:
            if name_or_id in (node.name, node.id):
                return node
        there = ", ".join(node.name for node in nodes) or "none at all"
        raise FairError(
            tried=f"find the node {name_or_id!r}",
            came_back=f"this account's nodes are: {there}",
            next_step="Set INFERENCE_NODE and TUNNEL_NODE to nodes of this account, and see that they are connected.",
            lasting=True,
        )

    def launch(self, node: str, spec: ContainerSpec) -> Program:
        """Sends a program and returns at once, without waiting for its container.

        It always holds a `Wait`: without one a program counts as completed at its start and never has an exit code.
        Where the files do not all get there it is ended again, as far as Fair can do that: it would wait for them, and
        be taken for a service that is about to run. They are not sent twice, since Fair appends what it is sent.
        """
        description: dict[str, Any] = {
            "image": spec.image,
            "runtime": spec.runtime,
            "ports": [
                [{"port": host, "ip": "null"}, {"port": container, "protocol": "Tcp"}] for host, container in spec.ports
            ],
            "command": list(spec.command),
            "host_config": {"network_mode": spec.network},
        }
        if spec.labels:
            description["labels"] = dict(spec.labels)
        copies = [
            {"type": "CopyInto", "container_id": "$0", "bucket_id": OWN_BUCKET, "remote_key": path, "local_path": path}
            for path in spec.files
        ]
        commands = [
            {"type": "Create", "container_desc": description},
            *copies,
            {"type": "Start", "container_id": "$0"},
            {"type": "Wait", "container_id": "$0"},
        ]
        with self._understood(f"start {spec.image}"):
            started = self._package.put_program(CLUSTER, node, commands)
            program = Program(node=node, id=int(started["program_id"]), bucket_id=int(started["bucket_id"]))
        try:
            for path, text in spec.files.items():
                self._package.put_file_data(program.bucket_id, path, text.encode())
                self._package.put_file_eof(program.bucket_id, path)
            self._package.put_file_eof(program.bucket_id, "#stdin")
        except Exception as error:
            failure = error
        else:
            return program
        if isinstance(failure, FairError):
            failure.unsent = False  # the program has reached Fair, if nothing of its files has
        self._take_back(program)  # not within the handler: its own faults would pass for consequences of the first
        raise failure

    def status(self, program: Program) -> str:
        """`Queued`, `NotResponding`, `Processing` or `Completed`."""
        with self._understood("ask for a program's status"):
            return str(self._package.get_program_info(CLUSTER, program.node, program.id)["status"])

    def end_of(self, program: Program) -> ProgramEnd | None:
        """How the program ended; None while it runs."""
        if self.status(program) != "Completed":
            return None
        url = f"{self._url}/clusters/{CLUSTER}/nodes/{program.node}/programs/{program.id}/result"
        with self._understood("ask for a program's result"):
            last = (self._request("get", url).json().get("result") or [{}])[-1]
            exit_code = last.get("Ok", {}).get("exit_code") if isinstance(last.get("Ok"), dict) else None
        words = self._last_words(program.bucket_id) or str(last.get("Err", ""))
        return ProgramEnd(exit_code, words)

    def containers(self, node: str) -> list[Container] | None:
        """The containers of a node; None if this Fair server cannot list them (the hosted one)."""
        try:
            response = self._request("get", f"{self._url}/nodes/{quote(node, safe='')}/containers")
        except FairError as error:
            if error.status in _NOT_LISTING:
                return None
            raise
        try:
            rows = response.json()["containers"]
        except (ValueError, LookupError, TypeError):
            return None  # a page for whatever is asked, say
        with self._understood("list containers"):
            names = Container.__dataclass_fields__
            return [Container(**{name: value for name, value in row.items() if name in names}) for row in rows]

    def delete_container(self, node: str, container_id: str, *, timeout_s: float) -> None:
        """Stops a container and waits until it is gone: `timeout_s` seconds at most.

        Raises: FairError if it is still there then.
        """
        url = f"{self._url}/nodes/{quote(node, safe='')}/containers/{quote(container_id, safe='')}"
        deadline = time.monotonic() + timeout_s
        try:
            self._request("delete", url, timeout=timeout_s)
        except FairError as error:
            if error.status != 404:  # gone by itself meanwhile
                raise
        while any(row.id == container_id and row.alive for row in self.containers(node) or []):
            if time.monotonic() > deadline:
                raise FairError(
                    f"Node {node}",
                    tried=f"stop container {container_id}",
                    came_back=f"it still runs after {timeout_s:g} s",
                    next_step="Stop it by hand on that machine.",
                    lasting=True,
                )
            time.sleep(0.1)

    def _take_back(self, program: Program) -> None:
        """Ends a program that has not got its files; its container goes by its number, where containers are listed."""
        try:
            self.delete_container(program.node, str(program.id), timeout_s=self._timeout_s)
        except FairError as error:
            log.warning(
                "program %d on node %s may wait for files that do not come: %s", program.id, program.node, error
            )

    def _addresses_of_old(self) -> dict[str, str]:
        """Node id -> address from the older listing, which always tells it; empty if this server has none."""
        try:
            rows = self._request("get", f"{self._url}/nodes").json().get("nodes", [])
        except FairError:
            return {}
        return {row["node_id"]: row["host_address"] for row in rows if row.get("host_address")}

    def _last_words(self, bucket_id: int) -> str:
        """The last lines of a finished program's stderr, which is read for at most a few seconds."""
        url = f"{self._url}/buckets/{bucket_id}/{quote_plus('#stderr')}"
        deadline = time.monotonic() + self._timeout_s
        tail = b""
        try:
            with self._request("get", url, stream=True) as response:
                for chunk in response.iter_content(65536):
                    tail = (tail + chunk)[-8 * LAST_CHARS :]
                    if time.monotonic() > deadline:
                        break
        except (FairError, requests.RequestException):
            return ""
        return last_words(tail.decode(errors="replace"))

    @contextlib.contextmanager
    def _understood(self, tried: str, *, lasting: bool = False) -> Iterator[None]:
        """Raises: FairError when an answer has another shape than a Fair server's."""
        try:
            yield
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise FairError(
                tried=f"{tried} at {self._address}",
                came_back=f"the answer is not a Fair server's ({type(error).__name__})",
                next_step="Check that FAIRCOMPUTE_SERVER_ADDRESS is a Fair server.",
                lasting=lasting,
            ) from error

    def _log_in(self) -> str:
        """A new token. Raises: FairError, with what to check."""
        body = {**self._account, "version": "V018"}
        response = self._send("post", f"{self._url}/auth/login", tried="log in", json=body)
        if not transport.is_success(response):
            raise FairError(
                tried=f"log in to {self._address}",
                came_back=f"it answered {transport.refusal(response)}",
                next_step="Check FAIRCOMPUTE_EMAIL, FAIRCOMPUTE_PASSWORD and FAIRCOMPUTE_SERVER_ADDRESS.",
                status=response.status_code,
            )
        with self._understood("log in", lasting=True):
            return str(response.json()["token"])

    def _request(self, method: str, url: str, **options: Any) -> requests.Response:
        """A successful answer, after one new login if the token has expired."""
        tried = f"{method.upper()} {url.removeprefix(self._url)}"
        token = self.token
        response = self._send(method, url, tried=tried, token=token, **options)
        if response.status_code == 401:
            with self._login_lock:
                if self.token == token:  # else another thread has logged in meanwhile
                    self.token = self._log_in()
            response = self._send(method, url, tried=tried, token=self.token, **options)
        if not transport.is_success(response):
            raise FairError(
                tried=f"{tried} at {self._address}",
                came_back=f"it answered {transport.refusal(response)}",
                next_step="See the Fair server's log.",
                status=response.status_code,
            )
        return response

    def _send(self, method: str, url: str, *, tried: str, token: str = "", **options: Any) -> requests.Response:
        timeout_s = options.pop("timeout", self._timeout_s)
        if self.until is not None:
            timeout_s = max(_AT_LEAST_S, min(timeout_s, self.until - time.monotonic()))
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        sent_at = time.monotonic()
        answer = self._send_once(
            method, url, tried=f"{tried} at {self._address}", timeout_s=timeout_s, headers=headers, **options
        )
        self._birth.observe(answer.headers.get("Date"), sent_at)
        return answer
