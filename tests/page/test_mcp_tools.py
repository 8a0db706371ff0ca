"""What is mended of Gradio's MCP server; tests/page/test_agent.py is a real agent's visit."""

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import anyio.to_thread
import pytest

from page.mcp_tools import CALLS_AT_ONCE, mend, values_of

WAITING = 60  # more than the threads that serve the page's files


def _values(calls: list["Future[Any]"]) -> list["asyncio.Task[list[Any]]"]:
    return [asyncio.ensure_future(values_of(SimpleNamespace(future=call))) for call in calls]


def test_agents_that_wait_hold_no_thread() -> None:
    """While many agents wait for their pictures, a file is served as if nobody did; then each gets its values."""
    calls: list[Future[Any]] = [Future() for _ in range(WAITING)]

    async def visit() -> list[list[Any]]:
        waiting = _values(calls)
        await asyncio.sleep(0)
        assert await asyncio.wait_for(anyio.to_thread.run_sync(lambda: "a file"), timeout=10) == "a file"
        for number, call in enumerate(calls):
            call.set_result(number if number % 2 else (number, "told"))
        return await asyncio.gather(*waiting)

    assert asyncio.run(visit())[:2] == [[0, "told"], [1]]


def test_a_failed_call_is_told() -> None:
    """What a call has failed with is what the agent reads."""
    call: Future[Any] = Future()
    call.set_exception(ValueError("the prompt is empty"))

    async def visit() -> None:
        await _values([call])[0]

    with pytest.raises(ValueError, match="the prompt is empty"):
        asyncio.run(visit())


def test_agents_do_not_wait_for_each_other() -> None:
    """The one client that makes the agents' calls has threads for all of them, and is given them once."""
    client = SimpleNamespace(executor=None, helper_executor=None)
    server: Any = SimpleNamespace(get_tool_to_endpoint=dict, _get_or_create_client=lambda: client)
    mend(SimpleNamespace(mcp_server_obj=server))
    assert server._get_or_create_client() is client
    pools = client.executor, client.helper_executor
    assert all(isinstance(pool, ThreadPoolExecutor) for pool in pools)
    assert [pool._max_workers for pool in pools] == [CALLS_AT_ONCE, 2 * CALLS_AT_ONCE]
    server._get_or_create_client()
    assert (client.executor, client.helper_executor) == pools
