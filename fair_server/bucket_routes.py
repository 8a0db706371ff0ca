"""Routes of buckets: put files, declare their end, read them while they grow.

A key travels as one segment, quoted by `quote_plus`: `/app/config.toml` as `%2Fapp%2Fconfig.toml`. Only the raw path
still tells a slash in a key from one between segments.
"""

from dataclasses import dataclass
from urllib.parse import unquote_plus

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse

from fair_server.authentication import account_of
from fair_server.bodies import body_pieces, whole_number
from fair_server.buckets import UPLOAD_LIMIT_BYTES, Bucket
from fair_server.errors import ApiError
from fair_server.fair import Fair

_EOF = "/eof"


@dataclass(frozen=True)
class _Address:
    bucket_id: int
    key: str
    is_eof: bool


def bucket_routes(fair: Fair) -> APIRouter:
    """Returns the routes below `/buckets`."""
    router = APIRouter(prefix="/buckets")

    def bucket_of(request: Request, address: _Address) -> Bucket:
        return fair.buckets.get(address.bucket_id, account_of(request))

    @router.put("/{address:path}")
    async def put(request: Request) -> JSONResponse:
        address = _address(request)
        bucket = bucket_of(request, address)
        if address.is_eof:
            bucket.declare_end(address.key)
        else:
            await bucket.upload(address.key, body_pieces(request, UPLOAD_LIMIT_BYTES))
        return JSONResponse({})

    @router.get("/{address:path}")
    async def get(request: Request) -> StreamingResponse:
        address = _address(request)
        file = bucket_of(request, address).existing_file(address.key)
        return StreamingResponse(file.read(), media_type="application/octet-stream")

    return router


def _address(request: Request) -> _Address:
    raw = bytes(request.scope["raw_path"]).decode("ascii", "replace").partition("/buckets/")[2]
    bucket, _, key = raw.partition("/")
    is_eof = request.method == "PUT" and key.endswith(_EOF)
    key = unquote_plus(key.removesuffix(_EOF) if is_eof else key)
    if not key:
        raise ApiError(404, "NO_SUCH_ROUTE", "The address of a bucket's file is /api/v0/buckets/BUCKET/KEY.")
    return _Address(whole_number(bucket, ApiError(404, "NO_SUCH_BUCKET", "There is no such bucket.")), key, is_eof)
