"""The page's tools for agents: Gradio's MCP server over the public endpoints, with three of its ways mended."""

import asyncio
import importlib.util
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gradio as gr

CALLS_AT_ONCE = 200


def is_installed() -> bool:
    """Whether tools can be offered: `gradio[mcp]` is there, as on every Space."""
    return importlib.util.find_spec("mcp") is not None


def mend(page: gr.Blocks) -> None:
    """Calls the tools what the endpoints are called, and gives each of their values its own place.

    On a Space Gradio puts the Space's name before each tool's, and agents are told of `text_to_image`. To an agent that
    asks for no progress it gives several values as one, in which it does not see the picture.
    And 40 agents that wait for theirs would keep all the threads that serve the page's files, and every other tool.
    """
    server: Any = page.mcp_server_obj
    if server is None:
        return
    server.tool_prefix = ""
    server.tool_to_endpoint = server.get_tool_to_endpoint()
    server._execute_tool_without_progress = values_of
    server._get_or_create_client = _with_room(server._get_or_create_client)


def _with_room(create: Any) -> Any:
    """Gradio's way to get the one client that makes all agents' calls, which has threads for `CALLS_AT_ONCE` then."""
    lock, seen = threading.Lock(), set[int]()

    def client() -> Any:
        with lock:
            made = create()
            if id(made) not in seen:
                seen.add(id(made))
                made.executor = ThreadPoolExecutor(CALLS_AT_ONCE, "agent")
                made.helper_executor = ThreadPoolExecutor(2 * CALLS_AT_ONCE, "agent-helper")
            return made

    return client


async def values_of(job: Any) -> list[Any]:
    """The values that a call ends with. Waits without a thread. Raises: what the call has failed with."""
    result = await asyncio.wrap_future(job.future)
    return list(result) if isinstance(result, tuple) else [result]
