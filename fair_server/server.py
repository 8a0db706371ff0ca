"""The server as a whole: starts its parts, serves the API, and ends without leaving a process or a file."""

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from fair_server.authentication import Accounts, Tokens, load_accounts
from fair_server.buckets import Buckets
from fair_server.errors import ConfigError
from fair_server.executor import Executor
from fair_server.nodes import Node, load_nodes
from fair_server.process_executor import ProcessExecutor
from fair_server.program_runner import ProgramRunner
from fair_server.request_limits import DeadlineProtocol
from fair_server.routes import create_app

_TIDY_EVERY_S = 5.0
_KEEP_ALIVE_S = 75.0  # clients keep a connection for longer than uvicorn's 5 s
_LAST_ANSWERS_S = 2  # how long answers may still take when all programs have ended
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    host: str
    port: int  # 0: a free one
    nodes: Path | None
    accounts: Path | None
    token_ttl_s: float
    upload_wait_s: float
    until_stdin_closes: bool
    pass_on: tuple[str, ...]  # names of variables
    executor: str = "process"
    docker_socket: str = "/var/run/docker.sock"
    tls_cert: Path | None = None
    tls_key: Path | None = None


class _Server(uvicorn.Server):
    """uvicorn that ends all programs before it waits for its last answers, since some of those stream their output."""

    def __init__(self, config: uvicorn.Config, runner: ProgramRunner, ready_line: str) -> None:
        super().__init__(config)
        self._runner = runner
        self._ready_line = ready_line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._ready_line, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._runner.close()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.should_exit = True  # uvicorn would also raise the signal again when all is done, and so fail


def serve(options: Options) -> None:
    """Serves until SIGTERM, SIGINT or, if asked for, the end of stdin. Must run in the main thread.

    Raises:
        ConfigError: an option, a file or the environment is wrong, or the address cannot be listened on.
    """
    nodes = load_nodes(options.nodes)
    accounts = load_accounts(options.accounts, os.environ)
    listener = _listen(options.host, options.port)
    if options.tls_cert is None and not listener.getsockname()[0].startswith(("127.", "::1")):
        _LOG.warning(
            "This server speaks plain HTTP and listens beyond this machine: give it --tls-cert and --tls-key, or put a "
            "TLS proxy in front of it."
        )
    folder = Path(tempfile.mkdtemp(prefix="fair-server-"))  # 0700
    try:
        asyncio.run(_serve(options, nodes, accounts, listener, folder))
    finally:
        listener.close()
        shutil.rmtree(folder, ignore_errors=True)


async def _serve(
    options: Options, nodes: tuple[Node, ...], accounts: Accounts, listener: socket.socket, folder: Path
) -> None:
    executor = await _executor(options, nodes, folder)
    buckets = Buckets(folder / "buckets")
    runner = ProgramRunner(executor, buckets, upload_wait_s=options.upload_wait_s)
    await runner.adopt(nodes)
    config = uvicorn.Config(
        create_app(nodes, accounts, Tokens(options.token_ttl_s), buckets, runner),
        http=DeadlineProtocol,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_keep_alive=int(_KEEP_ALIVE_S),
        timeout_graceful_shutdown=_LAST_ANSWERS_S,
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
    )
    _load_tls(config, options)
    host, port = listener.getsockname()[:2]
    address = f"[{host}]" if ":" in host else host
    count = f"{len(nodes)} node" + ("" if len(nodes) == 1 else "s")
    scheme = "https" if options.tls_cert else "http"
    ready_line = f"Fair server ready on {scheme}://{address}:{port} ({count}, {executor.name} executor)"
    server = _Server(config, runner, ready_line)
    if options.until_stdin_closes:
        _watch_stdin(server)
    tidying = asyncio.create_task(_tidy(runner))
    try:
        await server.serve(sockets=[listener])
    finally:
        tidying.cancel()
        await runner.close()


async def _executor(options: Options, nodes: tuple[Node, ...], folder: Path) -> Executor:
    if options.executor == "process":
        return ProcessExecutor(folder, options.pass_on)
    try:
        from fair_server.swarm_executor import SwarmExecutor  # Docker's SDK need not be there for processes
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"--executor swarm needs the package {exc.name}: pip install -r fair_server/requirements-swarm.txt."
        ) from exc
    return await SwarmExecutor.connect(options.docker_socket, nodes)


def _load_tls(config: uvicorn.Config, options: Options) -> None:
    """Reads certificate and key. Raises: ConfigError, since uvicorn would end with a traceback."""
    try:
        config.load()
    except OSError as exc:  # ssl.SSLError is one
        raise ConfigError(
            f"--tls-cert {options.tls_cert} and --tls-key {options.tls_key} cannot be used: {exc.strerror or exc}."
        ) from exc


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as exc:
        raise ConfigError(
            f"Cannot listen on {host} port {port}: {exc.strerror}. Give another --host or --port."
        ) from exc
    # What it accepts inherits this. asyncio turns Nagle's algorithm off only for sockets that name their protocol, and
    # with it an answer in two pieces waits up to 40 ms for the first one's acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _watch_stdin(server: uvicorn.Server) -> None:
    """Ends the server when stdin ends: the process that held it is gone. Stdin may be of any kind, hence a thread."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(sys.stdin.fileno(), 1024):
                pass
        server.should_exit = True

    threading.Thread(target=watch, name="stdin", daemon=True).start()


async def _tidy(runner: ProgramRunner) -> None:
    while True:
        await asyncio.sleep(_TIDY_EVERY_S)
        try:
            await runner.forget_old()
            await runner.end_unwanted()
            await runner.settle_again()
        except Exception:  # a manager of a swarm that is away for a while, say
            _LOG.exception("What has to be tidied could not be; it is tried again in %.0f s", _TIDY_EVERY_S)
