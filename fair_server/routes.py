"""The HTTP API: all routes below `/api/v0`, the check of the bearer token before them, and every error in one shape.

Source: `fair/client.py` of faircompute 0.20.1 and 0.22.1 (PyPI). The routes of containers are this server's own.
"""

import logging
from typing import Annotated, NamedTuple
from urllib.parse import unquote_plus

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fair_server import wire
from fair_server.authentication import Accounts, BearerMiddleware, Tokens, account_of
from fair_server.buckets import UPLOAD_LIMIT_BYTES, Buckets
from fair_server.clusters import DEFAULT, Clusters
from fair_server.errors import ApiError
from fair_server.nodes import Node, find_node
from fair_server.program_runner import ProgramRunner, no_such_program
from fair_server.program_state import Program
from fair_server.request_limits import body_pieces, error_response, read_json

_LOGIN_LIMIT_BYTES = 16 * 1024  # anyone may send one
_EOF = "/eof"
_LOG = logging.getLogger(__name__)

_Account = Annotated[str, Depends(account_of)]


def create_app(
    nodes: tuple[Node, ...], accounts: Accounts, tokens: Tokens, buckets: Buckets, runner: ProgramRunner
) -> FastAPI:
    """Returns the application. It has no pages of its own: no docs, no schema."""
    app = FastAPI(title="Fair server", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    api = APIRouter(prefix="/api/v0")

    @api.post("/auth/login")
    async def login(request: Request) -> wire.Token:
        who = await read_json(request, wire.Login, _LOGIN_LIMIT_BYTES)
        address = request.client.host if request.client else ""
        return wire.Token(token=tokens.issue(await accounts.check(who.email, who.password, address)))

    clusters = Clusters(nodes)
    api.include_router(_cluster_routes(nodes, clusters, runner))
    api.include_router(_program_routes(nodes, clusters, runner))
    api.include_router(_container_routes(nodes, runner))
    api.include_router(_bucket_routes(buckets))
    app.include_router(api)
    _add_error_handlers(app)
    app.add_middleware(BearerMiddleware, tokens=tokens)
    return app


def _cluster_routes(nodes: tuple[Node, ...], clusters: Clusters, runner: ProgramRunner) -> APIRouter:
    """Returns `/nodes` of the older client, and `/clusters` of the newer."""
    router = APIRouter()

    def rows(named: dict[str, Node]) -> wire.NodeRows:
        return wire.NodeRows(nodes=[_node_row(name, node, runner) for name, node in named.items()])

    @router.get("/nodes")
    async def list_nodes() -> wire.NodeRows:
        return rows({node.name: node for node in nodes})

    @router.post("/clusters/list")
    async def list_clusters(account: _Account) -> wire.ClusterRows:
        visible = clusters.visible(account).items()
        return wire.ClusterRows(clusters=[wire.ClusterRow(name=name, public=public) for name, public in visible])

    @router.post("/clusters/create")
    async def create_cluster(request: Request, account: _Account) -> JSONResponse:
        new = await read_json(request, wire.NewCluster)
        clusters.create(account, new.name, new.public)
        return JSONResponse({})

    @router.post("/clusters/remove")
    async def remove_cluster(request: Request, account: _Account) -> JSONResponse:
        clusters.remove(account, (await read_json(request, wire.OldName)).name)
        return JSONResponse({})

    @router.post("/clusters/{cluster}/nodes/list")
    async def list_cluster_nodes(cluster: str, account: _Account) -> wire.NodeRows:
        return rows(clusters.nodes(account, cluster))

    @router.post("/clusters/{cluster}/nodes/add")
    async def add_cluster_node(request: Request, cluster: str, account: _Account) -> JSONResponse:
        new = await read_json(request, wire.NewClusterNode)
        clusters.add_node(account, cluster, new.name, new.node_id)
        return JSONResponse({})

    @router.post("/clusters/{cluster}/nodes/remove")
    async def remove_cluster_node(request: Request, cluster: str, account: _Account) -> JSONResponse:
        clusters.remove_node(account, cluster, (await read_json(request, wire.OldName)).name)
        return JSONResponse({})

    return router


def _node_row(name: str, node: Node, runner: ProgramRunner) -> wire.NodeRow:
    spent = runner.spent_today(node)
    return wire.NodeRow(
        name=name,
        id=node.id,
        node_id=node.id,
        host_address=runner.host_address(node),
        gpus=node.gpus,
        status="ready" if runner.is_ready(node) else "unreachable",
        gpu_minutes_today=round(spent.gpu_minutes, 2),
        wake_ups_today=spent.wake_ups,
    )


def _program_routes(nodes: tuple[Node, ...], clusters: Clusters, runner: ProgramRunner) -> APIRouter:
    """Returns the routes of programs, by node and by cluster.

    The older client names a program's node, the newer its cluster and node, but asks for its state in cluster `default`
    whatever the cluster was. So a program is found by its number. Its node may be called by name, by id, or as the
    client called it when it put the program.
    """
    router = APIRouter()

    async def put(request: Request, account: str, cluster: str, name: str) -> wire.ProgramIds:
        node = clusters.find_node(account, cluster, name)
        program = runner.create(account, node, name, await read_json(request, wire.ProgramRequest))
        return wire.ProgramIds(program_id=program.id, bucket_id=program.bucket.id)

    def find(account: str, name: str, program_id: str) -> Program:
        try:
            program = runner.get(_number(program_id, no_such_program()), account)
        except ApiError:
            find_node(nodes, name)  # the wrong node is what to tell first
            raise
        if name not in (program.asked_node, program.node.name, program.node.id):
            find_node(nodes, name)
            raise no_such_program()
        return program

    @router.put("/nodes/{node}/programs")
    async def put_by_node(request: Request, account: _Account, node: str) -> wire.ProgramIds:
        return await put(request, account, DEFAULT, node)

    @router.put("/clusters/{cluster}/nodes/{node}/programs")
    async def put_by_cluster(request: Request, account: _Account, cluster: str, node: str) -> wire.ProgramIds:
        return await put(request, account, cluster, node)

    @router.get("/nodes/{node}/programs/{program}/info")
    @router.get("/clusters/{cluster}/nodes/{node}/programs/{program}/info")
    async def info(account: _Account, node: str, program: str) -> wire.ProgramInfo:
        found = find(account, node, program)
        return wire.ProgramInfo(status=found.status(runner.is_ready(found.node)))

    @router.get("/nodes/{node}/programs/{program}/result", response_model_exclude_none=True)
    @router.get("/clusters/{cluster}/nodes/{node}/programs/{program}/result", response_model_exclude_none=True)
    async def result(account: _Account, node: str, program: str) -> wire.ProgramResult:
        found = find(account, node, program)
        status = found.status(runner.is_ready(found.node))
        if status is not wire.ProgramStatus.COMPLETED:
            raise ApiError(409, "NOT_COMPLETED", f"The program is {status} and has no result yet. Ask for /info.")
        return wire.ProgramResult(result=found.result())

    return router


def _container_routes(nodes: tuple[Node, ...], runner: ProgramRunner) -> APIRouter:
    """Returns the routes that list and end containers, which no client of PyPI knows."""
    router = APIRouter(prefix="/nodes/{node}/containers")

    def row(program: Program) -> wire.ContainerRow:
        return program.row(runner.is_ready(program.node))

    @router.get("")
    async def list_containers(account: _Account, node: str) -> wire.ContainerRows:
        programs = runner.on_node(find_node(nodes, node), account)
        return wire.ContainerRows(containers=[row(program) for program in programs])

    @router.delete("/{container}")
    async def delete_container(account: _Account, node: str, container: str) -> wire.ContainerRow:
        there = {str(program.id): program for program in runner.on_node(find_node(nodes, node), account)}
        if container not in there:
            raise ApiError(404, "NO_SUCH_CONTAINER", "There is no such container on this node. List its containers.")
        try:
            await runner.stop(there[container])
        except TimeoutError as exc:
            raise ApiError(500, "NOT_STOPPED", f"{exc} Look at it on its node.") from exc
        return row(there[container])

    return router


class _FileAddress(NamedTuple):
    bucket_id: int
    key: str
    is_eof: bool


def _bucket_routes(buckets: Buckets) -> APIRouter:
    """Returns the routes that put files, declare their end, and read them while they grow."""
    router = APIRouter(prefix="/buckets")

    @router.put("/{address:path}")
    async def put(request: Request, account: _Account) -> JSONResponse:
        bucket_id, key, is_eof = _file_address(request)
        bucket = buckets.get(bucket_id, account)
        if is_eof:
            bucket.declare_end(key)
        else:
            await bucket.upload(key, body_pieces(request, UPLOAD_LIMIT_BYTES))
        return JSONResponse({})

    @router.get("/{address:path}")
    async def get(request: Request, account: _Account) -> StreamingResponse:
        bucket_id, key, _ = _file_address(request)
        file = buckets.get(bucket_id, account).existing_file(key)
        return StreamingResponse(file.read(), media_type="application/octet-stream")

    return router


def _file_address(request: Request) -> _FileAddress:
    """Reads BUCKET/KEY or BUCKET/KEY/eof.

    A key is one segment, quoted by `quote_plus`: `/app/config.toml` is `%2Fapp%2Fconfig.toml`. Only the raw path still
    tells a slash in a key from one between segments.
    """
    raw = bytes(request.scope["raw_path"]).decode("ascii", "replace").partition("/buckets/")[2]
    bucket, _, key = raw.partition("/")
    is_eof = request.method == "PUT" and key.endswith(_EOF)
    key = unquote_plus(key.removesuffix(_EOF) if is_eof else key)
    if not key:
        raise ApiError(404, "NO_SUCH_ROUTE", "The address of a bucket's file is /api/v0/buckets/BUCKET/KEY.")
    return _FileAddress(_number(bucket, ApiError(404, "NO_SUCH_BUCKET", "There is no such bucket.")), key, is_eof)


def _number(text: str, error: ApiError) -> int:
    """Returns the number in a path. Other text names nothing there, so it raises `error`."""
    if not text.isascii() or not text.isdecimal() or len(text) > 20:
        raise error
    return int(text)


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
