"""Routes of nodes and clusters."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from fair_server.authentication import account_of
from fair_server.bodies import read_json
from fair_server.fair import Fair
from fair_server.nodes import Node
from fair_server.wire import (
    ClusterName,
    ClusterNodeName,
    ClusterRow,
    ClusterRows,
    NewCluster,
    NewClusterNode,
    NodeRow,
    NodeRows,
)


def cluster_routes(fair: Fair) -> APIRouter:
    """Returns `/nodes` of the older client, and `/clusters` of the newer."""
    router = APIRouter()

    def rows(nodes: dict[str, Node]) -> NodeRows:
        return NodeRows(nodes=[_row(name, node, fair.programs.is_ready(node)) for name, node in nodes.items()])

    @router.get("/nodes")
    async def list_nodes() -> NodeRows:
        return rows({node.name: node for node in fair.nodes})

    @router.post("/clusters/list")
    async def list_clusters(request: Request) -> ClusterRows:
        visible = fair.clusters.visible(account_of(request))
        return ClusterRows(clusters=[ClusterRow(name=name, public=public) for name, public in visible.items()])

    @router.post("/clusters/create")
    async def create_cluster(request: Request) -> JSONResponse:
        new = await read_json(request, NewCluster)
        fair.clusters.create(account_of(request), new.name, new.public)
        return JSONResponse({})

    @router.post("/clusters/remove")
    async def remove_cluster(request: Request) -> JSONResponse:
        fair.clusters.remove(account_of(request), (await read_json(request, ClusterName)).name)
        return JSONResponse({})

    @router.post("/clusters/{cluster}/nodes/list")
    async def list_cluster_nodes(request: Request, cluster: str) -> NodeRows:
        return rows(fair.clusters.nodes(account_of(request), cluster))

    @router.post("/clusters/{cluster}/nodes/add")
    async def add_cluster_node(request: Request, cluster: str) -> JSONResponse:
        new = await read_json(request, NewClusterNode)
        fair.clusters.add_node(account_of(request), cluster, new.name, new.node_id)
        return JSONResponse({})

    @router.post("/clusters/{cluster}/nodes/remove")
    async def remove_cluster_node(request: Request, cluster: str) -> JSONResponse:
        name = (await read_json(request, ClusterNodeName)).name
        fair.clusters.remove_node(account_of(request), cluster, name)
        return JSONResponse({})

    return router


def _row(name: str, node: Node, is_ready: bool) -> NodeRow:
    return NodeRow(
        name=name,
        id=node.id,
        node_id=node.id,
        host_address=node.host_address,
        gpus=node.gpus,
        status="ready" if is_ready else "unreachable",
    )
