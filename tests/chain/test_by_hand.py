"""The commands in the error of a Fair that cannot stop containers: the maintainer types them."""

import json

import pytest

from errors import StartError
from tests.support.hostile_server import HostileServer, Line, Received
from tests.support.reconcile_bench import Bench, chain_settings

pytestmark = pytest.mark.slow


def test_the_commands_name_the_node_by_its_id(bench: Bench, unlisted: HostileServer) -> None:
    """`fair node` takes an id: that is what stands in the commands, however the node is called elsewhere."""
    passed_on = unlisted.script

    def with_ids(line: Line, request: Received) -> bool | None:
        if not request.path.endswith("/nodes/list"):
            return passed_on(line, request)
        names = {"home": "4f1c", "vm": "9b2e"}
        rows = [{"name": name, "id": node_id, "host_address": "127.0.0.1"} for name, node_id in names.items()]
        line.answer(200, json.dumps({"nodes": rows}))
        return True

    unlisted.script = with_ids
    chain = chain_settings(tunnel_node=None, inference_image="failed")
    with pytest.raises(StartError) as told:
        bench.reconcile(chain, url=unlisted.url)
    assert "fair node 4f1c list, then fair node 4f1c kill CONTAINER" in told.value.next_step
    assert "fair node home" not in str(told.value)
