"""The HTTP routes: read a request, hand it to the dispatcher, answer. They know nothing of engines or batching."""

import asyncio
import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from inference_server import openai_images
from inference_server.config import InferenceConfig
from inference_server.dispatcher import Dispatcher
from inference_server.errors import Refusal, failed
from inference_server.idempotency import IdempotencyStore
from inference_server.input_images import DECODING, read_images
from inference_server.metrics import CONTENT_TYPE, Metrics
from inference_server.openai_images import ImagesRequest, ImagesResponse, PictureFiles, read_images_request
from inference_server.owner import Owner
from inference_server.resolve import check
from inference_server.responses import ResultResponse, StreamResponse, refusal_response
from inference_server.supervisor import Phase
from inference_server.tickets import Ticket
from inference_server.wire import PictureRequest, read_request

log = logging.getLogger("inference_server.requests")
BODY_DEADLINE_S = 30.0
OPENAI_ROUTES = "POST /v1/images/generations, GET /v1/models"
LARGE_BYTES = 200_000  # a body that holds an image: read on a thread, what is drawn meanwhile is told on


@dataclass(frozen=True)
class Services:
    """What the routes hand over to."""

    config: InferenceConfig
    dispatcher: Dispatcher
    store: IdempotencyStore
    metrics: Metrics
    owner: Owner
    shut_down: Callable[[], None]


def create_app(services: Services) -> Starlette:
    """The application, without the bearer's middleware."""

    async def healthcheck(request: Request) -> Response:
        return JSONResponse(health(services, request.state.trusted))

    async def draw(request: Request) -> Response:
        return await _draw(services, request)

    files = PictureFiles()

    async def draw_for_openai(request: Request) -> Response:
        return await _draw_for_openai(services, files, request)

    async def file(request: Request) -> Response:
        return files.response(request.path_params["name"])

    async def models(request: Request) -> Response:
        return JSONResponse(openai_images.models(services.dispatcher.offer.model_name))

    async def cancel(request: Request) -> Response:
        request_id = request.path_params["request_id"]
        if not services.store.cancel(request_id):
            raise Refusal(404, "NO_SUCH_REQUEST", "No request of this id is waiting or being drawn.")
        log.info("request %s: cancelled by its client", ascii(request_id)[1:201])
        return JSONResponse({"cancelled": request_id})

    async def metrics(request: Request) -> Response:
        return Response(services.metrics.text(), media_type=CONTENT_TYPE)

    async def shutdown(request: Request) -> Response:
        services.shut_down()
        return JSONResponse({"state": "shutting down"}, headers={"Connection": "close"})

    routes = [
        Route("/healthcheck", healthcheck, methods=["GET"]),  # and HEAD
        Route("/", draw, methods=["POST"]),
        Route("/requests/{request_id:path}", cancel, methods=["DELETE"]),
        Route(openai_images.PATH, draw_for_openai, methods=["POST"]),
        Route(openai_images.FILES_PATH + "{name}", file, methods=["GET"]),
        Route("/v1/models", models, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/shutdown", shutdown, methods=["POST"]),
    ]
    handlers = {Refusal: _refused, HTTPException: _http_error, Exception: _unexpected}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return app


def health(services: Services, trusted: bool) -> dict[str, Any]:
    """The healthcheck's object; strangers learn the state only."""
    dispatcher, offer, config = services.dispatcher, services.dispatcher.offer, services.config
    state = "failed" if dispatcher.phase is Phase.FAILED else "loading"
    if state != "failed" and (config.lenient or offer.model_info is not None):
        state = "healthy"
    told: dict[str, Any] = {"state": state, "gpu": bool(offer.model_info and offer.model_info.gpu)}
    if not trusted:
        return told
    told["engine"] = dispatcher.phase.value if dispatcher.phase is not Phase.FAILED else Phase.ASLEEP.value
    told["model"] = offer.model_name
    told["deployment"] = config.deployment
    told["fingerprint"] = config.fingerprint
    told["limits"] = offer.limits.model_dump(mode="json") | {"images_at_once": {"max": dispatcher.images_at_once}}
    told["defaults"] = offer.defaults.model_dump(mode="json") if offer.defaults else {}
    told["hardware"] = _hardware(dispatcher)
    if dispatcher.phase is Phase.LOADING:
        told["stage"] = dispatcher.stage
    if offer.model_info is not None:
        told["memory_plan"] = offer.model_info.memory_plan
        told["notices"] = list(offer.model_info.notices)
    if dispatcher.phase is Phase.FAILED:
        told["reason"] = dispatcher.reason
    if pause := services.owner.pause:
        left_s = services.owner.pause_left_s
        told["pause"] = {"reason": pause.reason, "left_s": None if left_s is None else round(left_s, 1)}
    if services.owner.wakes_in_s is not None:
        told["wakes_in_s"] = services.owner.wakes_in_s
    return told


def _hardware(dispatcher: Dispatcher) -> dict[str, Any]:
    """The GPU as it was at the last loading, and the disk that the models are on."""
    gpu = asdict(dispatcher.hardware) if dispatcher.hardware else {}
    with contextlib.suppress(OSError):
        gpu["disk_free_bytes"] = shutil.disk_usage(os.environ.get("HF_HOME") or Path.home()).free
    return {name: value for name, value in gpu.items() if value is not None}


async def _draw(services: Services, request: Request) -> Response:
    ticket = await _submit(services, request, read_request)
    return (StreamResponse if ticket.request.call.streamEvents else ResultResponse)(ticket, _leaver(services))


async def _draw_for_openai(services: Services, files: PictureFiles, request: Request) -> Response:
    asked: list[ImagesRequest] = []

    def read(body: bytes) -> PictureRequest:
        asked.append(read_images_request(body))
        return read_request(asked[0].wire)

    ticket = await _submit(services, request, read)
    return ImagesResponse(ticket, _leaver(services), asked[0], files)


async def _submit(services: Services, request: Request, read: Callable[[bytes], PictureRequest]) -> Ticket:
    """Reads a body with `read` and puts what it asks for in the queue. Raises: Refusal."""
    services.metrics.touch()
    offer, request_id = services.dispatcher.offer, "without an id"
    try:
        body = await read_body(request, offer.limits.body_bytes.max)
        wanted = await asyncio.to_thread(read, body) if len(body) > LARGE_BYTES else read(body)
        del body
        request_id = wanted.request_id
        check(wanted, services.dispatcher.offer)
        if wanted.encoded_images:
            wanted = await _with_images(wanted)
            check(wanted, services.dispatcher.offer)
        ticket = services.store.join(wanted)
    except Refusal as refusal:
        services.metrics.requests.labels(refusal.code).inc()
        log.info("request %s: refused, %s", request_id, refusal.code)
        raise
    log.info("request %s: accepted", request_id)
    return ticket


def _leaver(services: Services) -> Callable[[Ticket, bool], None]:
    """What is done once a client has its answer, or is gone."""

    def leave(left: Ticket, answered: bool) -> None:
        services.metrics.touch()
        services.store.leave(left)
        _record(services.metrics, left, answered)

    return leave


async def _with_images(wanted: PictureRequest) -> PictureRequest:
    """Read on a thread; a client that hangs up meanwhile is noticed as soon as that is done."""
    images = await asyncio.get_running_loop().run_in_executor(DECODING, read_images, wanted.encoded_images)
    return wanted.with_images(images)


def _record(metrics: Metrics, ticket: Ticket, answered: bool) -> None:
    refusal = ticket.outcome.refusal if ticket.outcome is not None else None
    outcome = "hung_up" if not answered else "ok" if refusal is None else refusal.code
    metrics.requests.labels(outcome).inc()
    seconds = time.monotonic() - ticket.submitted_s
    metrics.picture_seconds.observe(seconds)
    log.info("request %s: %s after %.3f s", ticket.request.request_id, outcome, seconds)


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body, within its size and its deadline.

    Raises: Refusal (413, 408; 400 if the client is gone); the rest was not read, so the connection is to be closed.
    """
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared[:20]) > limit_bytes:
        raise _too_large(limit_bytes)
    chunks, size = [], 0
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit_bytes:
                    raise _too_large(limit_bytes)
                chunks.append(chunk)
    except TimeoutError:
        raise Refusal(408, "TOO_SLOW", f"The body did not arrive within {BODY_DEADLINE_S:g} s.") from None
    except ClientDisconnect:  # for the log: no client reads this answer
        raise Refusal(400, "INVALID_INPUTS", "The connection ended within the body.") from None
    return b"".join(chunks)


def _too_large(limit_bytes: int) -> Refusal:
    return Refusal(413, "BODY_TOO_LARGE", f"The body is larger than {limit_bytes} bytes.")


async def _refused(request: Request, exc: Exception) -> Response:
    if not isinstance(exc, Refusal):
        raise exc
    return refusal_response(exc, close=exc.status in (408, 413), path=request.url.path)


async def _http_error(request: Request, exc: Exception) -> Response:
    """The framework's own refusals, in this server's words."""
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    code = {404: "NO_SUCH_ROUTE", 405: "METHOD_NOT_ALLOWED"}.get(status, "BAD_REQUEST")
    told = f"Routes: GET /healthcheck, POST /, DELETE /requests/{{id}}, GET /metrics, POST /shutdown, {OPENAI_ROUTES}."
    refusal, close = Refusal(status, code, told), request.method not in ("GET", "HEAD")
    response = refusal_response(refusal, close=close, path=request.url.path)
    allowed = (exc.headers or {}).get("Allow") if isinstance(exc, HTTPException) else None
    if allowed:
        response.headers["Allow"] = ", ".join(sorted(allowed.split(", ")))
    return response


async def _unexpected(request: Request, exc: Exception) -> Response:
    return refusal_response(failed(), close=True, path=request.url.path)
