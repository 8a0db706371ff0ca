"""The inference server itself on loopback, in this process: a stand-in draws, everything before it is real."""

import dataclasses
import json
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

from inference_server import server
from inference_server.config import from_command_line
from inference_server.engine_child import EngineChild
from inference_server.messages import (
    Draw,
    Drawn,
    FromEngine,
    GenerationParams,
    ModelInfo,
    RawImage,
    Ready,
    Step,
    ToEngine,
)
from tests.support.inference_process import DEADLINE_S
from tests.support.scripted_engine import MODEL_INFO

MODEL = dataclasses.replace(MODEL_INFO, max_side_px=256)  # in multiples of 64


class ReadyChild(EngineChild):
    """An engine process that is ready at once; it draws at once, or is held after the first step. Keeps its orders."""

    def __init__(self, model: ModelInfo = MODEL) -> None:
        self._model = model
        self.drawings: list[GenerationParams] = []
        self.may_finish = threading.Event()
        self.may_finish.set()

    @property
    def pid(self) -> int:
        return 1

    def listen(self, on_message: Callable[[FromEngine], None], on_end: Callable[[str], None]) -> None:
        self._say = on_message
        on_message(Ready(self._model))

    def send(self, message: ToEngine) -> None:
        if isinstance(message, Draw):
            threading.Thread(target=self._draw, args=[message], daemon=True).start()

    def _draw(self, order: Draw) -> None:
        params = order.params
        self.drawings.append(params)
        self._say(Step(order.number, 1, params.steps_drawn * len(params.seeds), None))
        self.may_finish.wait(DEADLINE_S)
        black = RawImage(params.width_px, params.height_px, bytes(params.width_px * params.height_px * 3))
        self._say(Drawn(order.number, (black,) * len(params.seeds), 0.1))

    def kill(self) -> None:
        self.may_finish.set()


class FrontDoor:
    """A client of the server."""

    def __init__(self, url: str, bearer: str | None, child: ReadyChild) -> None:
        self.url, self.child = url, child
        self._headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        options = {"headers": self._headers, "timeout": DEADLINE_S, **options}
        return requests.request(method, self.url + path, **options)

    def post(self, stream: bool = False, **inputs: Any) -> requests.Response:
        body = {"modelInputs": {"prompt": "a cat", **inputs}, "callInputs": {"streamEvents": stream}}
        return self.ask("POST", "/", json=body, stream=stream)

    def refusal(self, **inputs: Any) -> str:
        """The message of a 400."""
        answer = self.post(**inputs)
        assert answer.status_code == 400, answer.text
        return str(answer.json()["$error"]["message"])

    def meta(self, **inputs: Any) -> dict[str, Any]:
        """`$meta` of a picture."""
        answer = self.post(**inputs)
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["$meta"])

    def lines(self, **inputs: Any) -> Iterator[dict[str, Any]]:
        """A streamed answer, line by line."""
        for line in self.post(stream=True, **inputs).iter_lines(chunk_size=None):
            yield json.loads(line)


def serve(
    folder: Path,
    keys: dict[str, Any],
    visit: Callable[[FrontDoor], None],
    *,
    bearer: str | None = None,
    model: ModelInfo = MODEL,
) -> None:
    """A server with these keys in its endpoint.json while `visit` runs; its client sends `bearer`.

    The server has the main thread, as always: it listens to signals there.
    """
    path = folder / "endpoint.json"
    path.write_text(json.dumps(keys))
    told = from_command_line(["--port", "0", "--config", str(path)])
    bound, child = server.bind(told.host, told.port), ReadyChild(model)
    bound.listen()  # who asks before the server is up waits
    door = FrontDoor(f"http://127.0.0.1:{bound.getsockname()[1]}", bearer, child)

    def visit_and_leave() -> None:
        try:
            visit(door)
        finally:
            child.may_finish.set()
            if door.ask("POST", "/shutdown").status_code != 200:  # `visit` was to find out that the bearer is right
                signal.raise_signal(signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool:
        visited = pool.submit(visit_and_leave)
        server.run(told.config, bound, ReadyChild, child)
        visited.result()
