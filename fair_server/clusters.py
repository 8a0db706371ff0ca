"""Clusters: groups of nodes that accounts make. `default` is always there and has every node."""

from dataclasses import dataclass, field

from fair_server.errors import ApiError
from fair_server.nodes import Node, find_node, no_such_node

DEFAULT = "default"
_CLUSTERS_AT_MOST = 1000


@dataclass
class _Cluster:
    owner: str
    public: bool
    nodes: dict[str, Node] = field(default_factory=dict)  # by their names in this cluster


class Clusters:
    """All clusters. One is seen by the account that made it and, if it is public, by all; only its maker changes it."""

    def __init__(self, nodes: tuple[Node, ...]) -> None:
        self._all_nodes = nodes
        self._clusters: dict[str, _Cluster] = {}

    def visible(self, account: str) -> dict[str, bool]:
        """Returns the names of the clusters that the account sees, and whether each is public."""
        own = {name: cluster.public for name, cluster in self._clusters.items() if _sees(account, cluster)}
        return {DEFAULT: True, **own}

    def create(self, account: str, name: str, public: bool) -> None:
        """Makes an empty cluster.

        Raises:
            ApiError: 409 CLUSTER_EXISTS, TOO_MANY_CLUSTERS.
        """
        if name == DEFAULT or name in self._clusters:
            raise ApiError(409, "CLUSTER_EXISTS", f"A cluster {name!r} exists already. Choose another name.")
        if len(self._clusters) >= _CLUSTERS_AT_MOST:
            raise ApiError(409, "TOO_MANY_CLUSTERS", "There are too many clusters. Remove one first.")
        self._clusters[name] = _Cluster(account, public)

    def remove(self, account: str, name: str) -> None:
        """Removes a cluster; its nodes and what runs on them stay.

        Raises:
            ApiError: 404 NO_SUCH_CLUSTER; 409 FIXED_CLUSTER for `default`.
        """
        self._own(account, name)
        del self._clusters[name]

    def nodes(self, account: str, name: str) -> dict[str, Node]:
        """Returns the nodes of a cluster by their names in it.

        Raises:
            ApiError: 404 NO_SUCH_CLUSTER.
        """
        if name == DEFAULT:
            return {node.name: node for node in self._all_nodes}
        cluster = self._clusters.get(name)
        if cluster is None or not _sees(account, cluster):
            there = ", ".join(self.visible(account))
            raise ApiError(404, "NO_SUCH_CLUSTER", f"There is no cluster {name!r}. The clusters are: {there}.")
        return dict(cluster.nodes)

    def add_node(self, account: str, cluster: str, name: str, node_id: str) -> None:
        """Puts a node into a cluster, under a name of its own there.

        Raises:
            ApiError: 404 NO_SUCH_CLUSTER, NO_SUCH_NODE; 409 NODE_EXISTS, FIXED_CLUSTER.
        """
        own = self._own(account, cluster)
        if name in own.nodes:
            raise ApiError(409, "NODE_EXISTS", f"Cluster {cluster!r} has a node {name!r} already.")
        own.nodes[name] = find_node(self._all_nodes, node_id)

    def remove_node(self, account: str, cluster: str, name: str) -> None:
        """Takes the node of that name out of a cluster.

        Raises:
            ApiError: 404 NO_SUCH_CLUSTER, NO_SUCH_NODE; 409 FIXED_CLUSTER.
        """
        own = self._own(account, cluster)
        if name not in own.nodes:
            raise no_such_node(name, list(own.nodes))
        del own.nodes[name]

    def find_node(self, account: str, cluster: str, name_or_id: str) -> Node:
        """Returns the node that a cluster knows by that name, or that has that name or id itself.

        Raises:
            ApiError: 404 NO_SUCH_CLUSTER, NO_SUCH_NODE.
        """
        nodes = self.nodes(account, cluster)
        for name, node in nodes.items():
            if name_or_id in (name, node.name, node.id):
                return node
        raise no_such_node(name_or_id, list(nodes))

    def _own(self, account: str, name: str) -> _Cluster:
        if name == DEFAULT:
            raise ApiError(
                409, "FIXED_CLUSTER", "Cluster 'default' holds the nodes of the server's nodes file and cannot change."
            )
        self.nodes(account, name)
        cluster = self._clusters[name]
        if cluster.owner != account:
            raise ApiError(403, "NOT_YOURS", f"Cluster {name!r} is another account's; only that one can change it.")
        return cluster


def _sees(account: str, cluster: _Cluster) -> bool:
    return cluster.public or cluster.owner == account
