"""Visitors of a page from outside: `python -m tests.support.edge_visitors URL CERTIFICATE PROMPT VISITORS STEPS`.

Each asks for one picture over the page's API, all at once, and looks whether it is the one of its seed. Prints a line
`OUTCOMES` with a JSON array.
"""

import asyncio
import io
import json
import ssl
import sys
from typing import Any
from urllib.parse import urlsplit

import httpx
from PIL import Image

from benchmarks._lines_engine import noise

_SIDE_PX = 64
_LIMIT_S = 200


async def main() -> None:
    url, certificate, prompt, visitors, steps = sys.argv[1:]
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)
    context = ssl.create_default_context(cafile=certificate)
    async with httpx.AsyncClient(
        base_url=url, verify=context, timeout=_LIMIT_S, limits=limits, trust_env=False
    ) as client:
        asked = [_visit(client, f"{prompt} {number}", number, int(steps)) for number in range(1, int(visitors) + 1)]
        print(f"OUTCOMES {json.dumps(await asyncio.gather(*asked))}", flush=True)


async def _visit(client: httpx.AsyncClient, prompt: str, seed: int, steps: int) -> dict[str, Any]:
    try:
        outcome, words = await _draw(client, prompt, seed, steps)
    except httpx.HTTPError as error:  # the page was killed: the browser says so
        outcome, words = "sentence", f"{type(error).__name__}: {error}"
    return {"prompt": prompt, "outcome": outcome, "words": words}


async def _draw(client: httpx.AsyncClient, prompt: str, seed: int, steps: int) -> tuple[str, str]:
    call = "/gradio_api/call/text_to_image"
    asked = await client.post(call, json={"data": [prompt, "", _SIDE_PX, _SIDE_PX, steps, None, seed]})
    asked.raise_for_status()
    event, told = "", ""
    async with client.stream("GET", f"{call}/{asked.json()['event_id']}") as answer:
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                event = value
            elif name == "data" and event in ("complete", "error"):
                told = value
                break
    if event == "error":
        return "sentence", told
    if not told:
        return "sentence", "the answer ended early"
    picture, used = json.loads(told)[:2]
    file = await client.get(urlsplit(picture["url"]).path)
    file.raise_for_status()
    pixels = Image.open(io.BytesIO(file.content)).convert("RGB").tobytes()
    right = used == seed and pixels == noise(seed, _SIDE_PX, _SIDE_PX)
    return ("picture", "") if right else ("wrong", f"seed {used} for {seed}")


if __name__ == "__main__":
    asyncio.run(main())
