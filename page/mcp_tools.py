"""The page's tools for agents: Gradio's MCP server over the public endpoints, with two of its ways mended."""

import importlib.util
from typing import Any

import gradio as gr
from anyio.to_thread import run_sync


def is_installed() -> bool:
    """Whether tools can be offered: `gradio[mcp]` is there, as on every Space."""
    return importlib.util.find_spec("mcp") is not None


def mend(page: gr.Blocks) -> None:
    """Calls the tools what the endpoints are called, and gives each of their values its own place.

    On a Space Gradio puts the Space's name before each tool's, and agents are told of `text_to_image`. To an agent that
    asks for no progress it gives several values as one, in which it does not see the picture.
    """
    server: Any = page.mcp_server_obj
    if server is None:
        return
    server.tool_prefix = ""
    server.tool_to_endpoint = server.get_tool_to_endpoint()
    server._execute_tool_without_progress = _values_of


async def _values_of(job: Any) -> list[Any]:
    result = await run_sync(job.result)
    return list(result) if isinstance(result, tuple) else [result]
