"""The parts of one server, as its routes see them."""

from dataclasses import dataclass

from fair_server.accounts import Accounts
from fair_server.buckets import Buckets
from fair_server.clusters import Clusters
from fair_server.nodes import Node
from fair_server.programs import Programs
from fair_server.tokens import Tokens


@dataclass(frozen=True)
class Fair:
    """All that a running server consists of."""

    nodes: tuple[Node, ...]
    accounts: Accounts
    tokens: Tokens
    clusters: Clusters
    buckets: Buckets
    programs: Programs
