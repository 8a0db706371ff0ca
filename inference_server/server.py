"""Runs the server: socket, TLS, event loop, and its end by a signal, the shutdown route or idleness."""

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from inference_server.config import ConfigError, InferenceConfig
from inference_server.connect import serve_space
from inference_server.connections import DeadlineLoop, DeadlineProtocol
from inference_server.dispatcher import Dispatcher
from inference_server.engine_child import EngineChild
from inference_server.healthcheck import with_beats
from inference_server.idempotency import KEEP_BYTES, KEEP_S, IdempotencyStore
from inference_server.kept_results import KeptResults
from inference_server.metrics import Metrics
from inference_server.owner import TICK_S, Owner
from inference_server.routes import Services, create_app, health
from inference_server.security import BearerMiddleware, server_context
from inference_server.space import Space
from inference_server.space_connection import FINISH_S
from inference_server.supervisor import Phase

log = logging.getLogger("inference_server")
KEEP_ALIVE_S = 75  # a client's next picture finds its connection open
GRACE_S = 1  # for answers on their way when the server ends
IDLE_CHECK_S = 0.5


def bind(host: str, port: int) -> socket.socket:
    """Raises: ConfigError when the address cannot be had."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        # asyncio turns Nagle's algorithm off only where the protocol is named: else every answer waits 40 ms.
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError) as exc:
        raise ConfigError(f"Cannot listen on {host} port {port}: {exc}") from exc
    return bound


def run(
    config: InferenceConfig,
    place: socket.socket | Space,
    start_child: Callable[[], EngineChild],
    child: EngineChild | None,
    owner: Owner | None = None,
) -> None:
    """Serves until a signal, `POST /shutdown` or idleness ends it. `child` was started before this was imported.

    `place`: the bound socket that clients connect to, or the Space that this server dials. `owner`: what the owner of
    this machine wants; None: nothing of it is kept.
    """
    context = None
    if config.tls_key is not None and config.tls_certificate is not None:
        context = server_context(config.tls_key.get_secret_value(), config.tls_certificate)
    with asyncio.Runner(loop_factory=DeadlineLoop) as runner:
        runner.run(_serve(config, place, context, start_child, child, owner or Owner()))


class Server(uvicorn.Server):
    """uvicorn with this project's end: `ending` (set by signals, too) ends it orderly, `before_end` runs first."""

    def __init__(
        self,
        app: ASGIApp,
        bound: socket.socket,
        context: ssl.SSLContext | None,
        ending: asyncio.Event,
        before_end: Callable[[], None],
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=DeadlineProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=GRACE_S,
                ssl_context_factory=None if context is None else lambda config, default: context,
            )
        )
        self._bound, self._scheme = bound, "http" if context is None else "https"
        self._ending, self._before_end = ending, before_end

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._ending.is_set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = self._bound.getsockname()[:2]
        print(
            f"inference server listening on {self._scheme}://{f'[{host}]' if ':' in host else host}:{port}", flush=True
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._before_end()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        with signals_end(self._ending):
            yield


@contextlib.contextmanager
def signals_end(ending: asyncio.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set the event."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    yield


async def _serve(
    config: InferenceConfig,
    place: socket.socket | Space,
    context: ssl.SSLContext | None,
    start_child: Callable[[], EngineChild],
    child: EngineChild | None,
    owner: Owner,
) -> None:
    metrics, ending = Metrics(), asyncio.Event()
    dispatcher = Dispatcher(config, start_child, metrics, owner, ending.set)
    kept = None
    if isinstance(place, Space) and owner.folder is not None:
        kept = KeptResults(owner.folder / "results", keep_s=KEEP_S, keep_bytes=KEEP_BYTES)
        # What a server that was killed has left, though nothing is drawn here until then.
        asyncio.get_running_loop().call_later(KEEP_S + 1, kept.drop_old)
    store = IdempotencyStore(dispatcher.submit, dispatcher.cancel, kept)
    bearer = config.bearer.get_secret_value() if config.bearer else None
    services = Services(config, dispatcher, store, metrics, owner, ending.set)
    app = BearerMiddleware(create_app(services), None if isinstance(place, Space) else bearer)
    dispatcher.start(child)
    tasks = [
        asyncio.create_task(_end_when_idle(config.idle_exit_s, dispatcher, metrics, ending)),
        asyncio.create_task(_mind_owner(dispatcher)),
    ]
    try:
        if isinstance(place, Space):
            with signals_end(ending):
                owner.begin(place.url, place.name)
                beats = with_beats(lambda: health(services, True))
                told = asyncio.create_task(_time_of(ending))
                await serve_space(place, app, beats, ending, owner.on_line, store.wait_for_clients, store.acknowledge)
                if store.is_waited_for:  # what is drawn without a line is kept for the next process
                    await dispatcher.finish(FINISH_S - (asyncio.get_running_loop().time() - await told))
        else:
            owner.begin(None, None)
            await Server(app, place, context, ending, dispatcher.close).serve(sockets=[place])
    finally:
        for task in tasks:
            task.cancel()
        dispatcher.close()
        await dispatcher.finish_encoding()
        owner.end()
        if kept is not None:
            kept.close()


async def _time_of(event: asyncio.Event) -> float:
    """When it is set, on the loop's clock."""
    await event.wait()
    return asyncio.get_running_loop().time()


async def _mind_owner(dispatcher: Dispatcher) -> None:
    while True:
        await asyncio.sleep(TICK_S)
        dispatcher.mind_owner()


async def _end_when_idle(idle_exit_s: float, dispatcher: Dispatcher, metrics: Metrics, ending: asyncio.Event) -> None:
    """Ends the server when nothing was drawn or asked for `idle_exit_s`; 0 = never. Healthchecks do not count.

    A paused one stays: a new one in its place might know nothing of the pause.
    """
    while idle_exit_s:
        await asyncio.sleep(min(IDLE_CHECK_S, idle_exit_s))
        if dispatcher.busy or dispatcher.paused:
            metrics.touch()
        elif metrics.idle_s >= idle_exit_s and dispatcher.phase is not Phase.LOADING:
            log.info("idle for %g s: ending", idle_exit_s)
            ending.set()
            return
