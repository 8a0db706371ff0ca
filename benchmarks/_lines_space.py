"""A Space whose workers dial in, without its page: asks come on stdin, their events go to stdout, a JSON object a line.

`python -m benchmarks._lines_space HOST PORT CERTIFICATE KEY`, the workers' key in WORKER_KEY. Everything behind the
page is the product's: jobs, the pool of workers, their WebSocket, served by uvicorn over TLS.
"""

import asyncio
import json
import os
import sys
import time
from typing import Any

import uvicorn
from starlette.applications import Starlette

from backends.workers import AWAY_FOR_A_MOMENT, Workers
from benchmarks._lines_engine import noise
from drawing.events import Cancelled, Event, Failed, Picture, Waking
from drawing.jobs import Job
from drawing.log_context import configure_logging
from errors import SpaceError
from text_to_image import TextToImage

_LINE_BYTES = 64 * 1024


class _Front:
    """Asks for pictures and tells what comes of it."""

    def __init__(self, service: TextToImage) -> None:
        self._service = service
        self._following: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Until stdin ends."""
        reader = asyncio.StreamReader(_LINE_BYTES)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            following = asyncio.create_task(self._follow(json.loads(line)))
            self._following.add(following)
            following.add_done_callback(self._following.discard)

    async def _follow(self, ask: dict[str, Any]) -> None:
        try:
            job: Job = self._service.submit(**ask)
        except SpaceError as error:
            _tell(ask["prompt"], "sentence", str(error))
            return
        _tell(ask["prompt"], "job", job.id)
        async for event in job.follow():
            kind, words = _describe(event, job)
            _tell(ask["prompt"], kind, words)


def _describe(event: Event, job: Job) -> tuple[str, str]:
    match event:
        case Picture(generated):
            image, wanted = generated.image, job.request
            pixels = noise(wanted.seed or 0, image.width, image.height)
            right = generated.seed == wanted.seed and image.width == wanted.width and image.tobytes() == pixels
            return ("picture", "") if right else ("wrong", f"seed {generated.seed} for {wanted.seed}")
        case Failed(error):
            return "sentence", str(error)
        case Cancelled():
            return "sentence", "cancelled"
        case Waking(stage):
            return ("away" if stage == AWAY_FOR_A_MOMENT else "waking"), stage
    return type(event).__name__.lower(), ""


def _tell(prompt: str, kind: str, words: str) -> None:
    print(json.dumps({"prompt": prompt, "kind": kind, "words": words, "at_s": time.monotonic()}), flush=True)


async def _main() -> None:
    host, port, certificate, key = sys.argv[1:]
    workers = Workers(os.environ["WORKER_KEY"], wait_s=60.0)
    config = uvicorn.Config(
        Starlette(routes=workers.routes()),
        host=host,
        port=int(port),
        ssl_certfile=certificate,
        ssl_keyfile=key,
        log_level="warning",
        lifespan="off",
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
        await asyncio.sleep(0.01)
    _tell("", "ready", "")
    front = asyncio.create_task(_Front(TextToImage(workers)).serve())
    while workers.status().away:  # noqa: ASYNC110  nor the pool
        await asyncio.sleep(0.05)
    _tell("", "connected", "")
    await asyncio.wait({serving, front}, return_when=asyncio.FIRST_COMPLETED)
    os._exit(0)


if __name__ == "__main__":
    configure_logging()
    asyncio.run(_main())
