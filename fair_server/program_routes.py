"""Routes of programs and of their containers.

The older client addresses a program by node, the newer by cluster and node, but asks for its state in cluster
`default` whatever cluster it named: so a program is found by its number, and the node that a client names must be
one that the server knows, or the very name under which that program was put.
"""

from fastapi import APIRouter, Request

from fair_server.authentication import account_of
from fair_server.bodies import read_json, whole_number
from fair_server.clusters import DEFAULT
from fair_server.errors import ApiError
from fair_server.fair import Fair
from fair_server.nodes import find_node
from fair_server.program import Program
from fair_server.programs import no_such_program
from fair_server.wire import (
    ContainerRow,
    ContainerRows,
    ProgramIds,
    ProgramInfo,
    ProgramRequest,
    ProgramResult,
    ProgramStatus,
)


def program_routes(fair: Fair) -> APIRouter:
    """Returns the routes of programs, by node and by cluster."""
    router = APIRouter()

    async def put(request: Request, cluster: str, name: str) -> ProgramIds:
        account = account_of(request)
        node = fair.clusters.find_node(account, cluster, name)
        program = fair.programs.create(account, node, name, await read_json(request, ProgramRequest))
        return ProgramIds(program_id=program.id, bucket_id=program.bucket.id)

    def find(request: Request, name: str, program_id: str) -> Program:
        try:
            program = fair.programs.get(whole_number(program_id, no_such_program()), account_of(request))
        except ApiError:
            find_node(fair.nodes, name)  # the wrong node is what to tell first
            raise
        if name not in (program.asked_node, program.node.name, program.node.id):
            find_node(fair.nodes, name)
            raise no_such_program()
        return program

    def status(program: Program) -> ProgramStatus:
        return program.status(fair.programs.is_ready(program.node))

    @router.put("/nodes/{node}/programs")
    async def put_by_node(request: Request, node: str) -> ProgramIds:
        return await put(request, DEFAULT, node)

    @router.put("/clusters/{cluster}/nodes/{node}/programs")
    async def put_by_cluster(request: Request, cluster: str, node: str) -> ProgramIds:
        return await put(request, cluster, node)

    @router.get("/nodes/{node}/programs/{program}/info")
    @router.get("/clusters/{cluster}/nodes/{node}/programs/{program}/info")
    async def info(request: Request, node: str, program: str) -> ProgramInfo:
        return ProgramInfo(status=status(find(request, node, program)))

    @router.get("/nodes/{node}/programs/{program}/result", response_model_exclude_none=True)
    @router.get("/clusters/{cluster}/nodes/{node}/programs/{program}/result", response_model_exclude_none=True)
    async def result(request: Request, node: str, program: str) -> ProgramResult:
        found = find(request, node, program)
        if status(found) is not ProgramStatus.COMPLETED:
            raise ApiError(
                409, "NOT_COMPLETED", f"The program is {status(found)} and has no result yet. Ask for /info."
            )
        return ProgramResult(result=found.result())

    return router


def container_routes(fair: Fair) -> APIRouter:
    """Returns what lists and ends containers: this server's own, no client of PyPI knows it."""
    router = APIRouter(prefix="/nodes/{node}/containers")

    def row(program: Program) -> ContainerRow:
        return program.row(fair.programs.is_ready(program.node))

    @router.get("")
    async def list_containers(request: Request, node: str) -> ContainerRows:
        programs = fair.programs.on_node(find_node(fair.nodes, node), account_of(request))
        return ContainerRows(containers=[row(program) for program in programs])

    @router.delete("/{container}")
    async def delete_container(request: Request, node: str, container: str) -> ContainerRow:
        missing = ApiError(404, "NO_SUCH_CONTAINER", "There is no such container on this node. List its containers.")
        there = {
            str(program.id): program
            for program in fair.programs.on_node(find_node(fair.nodes, node), account_of(request))
        }
        if container not in there:
            raise missing
        try:
            await fair.programs.stop(there[container])
        except TimeoutError as exc:
            raise ApiError(500, "NOT_STOPPED", f"{exc} Look at it on its node.") from exc
        return row(there[container])

    return router
