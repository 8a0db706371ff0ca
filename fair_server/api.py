"""The HTTP API as a whole: routes below `/api/v0`, the bearer check in front, every error in one shape.

Source: `fair/client.py` of faircompute 0.20.1 and 0.22.1 (PyPI).
"""

import logging

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fair_server.authentication import BearerMiddleware
from fair_server.bodies import error_response, read_json
from fair_server.bucket_routes import bucket_routes
from fair_server.cluster_routes import cluster_routes
from fair_server.errors import ApiError
from fair_server.fair import Fair
from fair_server.program_routes import container_routes, program_routes
from fair_server.wire import Login, Token

_LOGIN_LIMIT_BYTES = 16 * 1024  # anyone may send one
_LOG = logging.getLogger(__name__)


def create_app(fair: Fair) -> FastAPI:
    """Returns the application. It has no pages of its own: no docs, no schema."""
    app = FastAPI(title="Fair server", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    api = APIRouter(prefix="/api/v0")

    @api.post("/auth/login")
    async def login(request: Request) -> Token:
        who = await read_json(request, Login, _LOGIN_LIMIT_BYTES)
        return Token(token=fair.tokens.issue(await fair.accounts.check(who.email, who.password)))

    for router in (cluster_routes(fair), program_routes(fair), container_routes(fair), bucket_routes(fair)):
        api.include_router(router)
    app.include_router(api)
    _add_error_handlers(app)
    app.add_middleware(BearerMiddleware, tokens=fair.tokens)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def refuse(_: Request, exc: ApiError) -> JSONResponse:
        return error_response(exc)

    @app.exception_handler(HTTPException)
    async def no_route(_: Request, exc: HTTPException) -> JSONResponse:
        if exc.status_code == 405:
            return error_response(ApiError(405, "WRONG_METHOD", "This address does not take this method."))
        return error_response(ApiError(exc.status_code, "NO_SUCH_ROUTE", "There is nothing at this address."))

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, exc: ClientDisconnect) -> JSONResponse:
        return error_response(ApiError(400, "CLIENT_GONE", "The connection ended within the body."))

    @app.exception_handler(Exception)
    async def fail(_: Request, exc: Exception) -> JSONResponse:
        _LOG.error("A request failed: %s", type(exc).__name__)
        return error_response(ApiError(500, "SERVER_ERROR", f"The server failed ({type(exc).__name__}); see its log."))
