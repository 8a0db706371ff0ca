"""An agent: a page of a stand-in service, served as on a Space, and a real MCP client of its tools. Prints JSON.

A program of its own, since `mcp` is not installed where the tests run: PYTHONPATH has to name its folder.
"""

import ast
import asyncio
import json
import os
import sys
from typing import Any

from mcp import ClientSession  # type: ignore[import-not-found]
from mcp.client.streamable_http import streamablehttp_client  # type: ignore[import-not-found]

from tests.support.page_service import StandInService, serve

_WAKES_AFTER_S = 8.0  # longer than a call waits without a word


async def _visit(url: str, service: StandInService) -> dict[str, Any]:
    async with streamablehttp_client(f"{url}gradio_api/mcp/") as (read, write, _), ClientSession(read, write) as agent:
        await agent.initialize()
        tools = {tool.name: tool.model_dump() for tool in (await agent.list_tools()).tools}
        progress: list[str] = []

        async def tell(done: float, total: float | None, message: str | None) -> None:
            progress.append(message or "")

        drawn = await agent.call_tool("text_to_image", {"prompt": "a red apple"})
        service.hold("waking")
        asyncio.get_running_loop().call_later(_WAKES_AFTER_S, service.let, "waking")
        watched = await agent.call_tool("text_to_image", {"prompt": "a red apple"}, progress_callback=tell)
        ticket = ast.literal_eval((await agent.call_tool("submit", {"prompt": "a dog", "seed": 5})).content[0].text)
        for _ in range(100):
            result = await agent.call_tool("result", {"id": ticket["id"]})
            if "done" in result.content[-1].text:
                break
            await asyncio.sleep(0.1)
        stranger = await agent.call_tool("cancel", {"id": ticket["id"], "cancel_token": "mine"})
        empty = await agent.call_tool("text_to_image", {"prompt": " "})
        calls = {"drawn": drawn, "watched": watched, "result": result, "stranger": stranger, "empty": empty}
        return {"tools": tools, "progress": progress, **{name: call.model_dump() for name, call in calls.items()}}


if __name__ == "__main__":
    stand_in = StandInService()
    _, address = serve(stand_in)
    print(json.dumps(asyncio.run(_visit(address, stand_in)), default=str))
    sys.stdout.flush()
    os._exit(0)
