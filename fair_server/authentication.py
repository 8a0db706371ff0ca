"""The bearer check: ASGI middleware in front of everything, so that no byte of an unwelcome body is read.

Source: FastAPI reads a body before its dependencies run, so a dependency would be too late; and uvicorn goes on
accepting the body of a refused request unless the refusal says `Connection: close`.
"""

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from fair_server.bodies import error_response
from fair_server.errors import ApiError
from fair_server.tokens import Tokens

LOGIN_PATH = "/api/v0/auth/login"
_ACCOUNT = "fair_server.account"


class BearerMiddleware:
    """Lets a login through, and every other request only with a token that is valid now."""

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, its account noted in the scope, or answers 401."""
        if scope["type"] != "http" or (scope["method"] == "POST" and scope["path"] == LOGIN_PATH):
            await self._app(scope, receive, send)
            return
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        account = self._tokens.account_of(token.strip()) if scheme.lower() == "bearer" else None
        if account is None:
            refusal = ApiError(401, "BAD_TOKEN", "The bearer token is missing, wrong or expired. Log in again.")
            await error_response(refusal, close=True)(scope, receive, send)
            return
        scope[_ACCOUNT] = account
        await self._app(scope, receive, send)


def account_of(request: Request) -> str:
    """Returns the account that makes this request."""
    return str(request.scope[_ACCOUNT])
