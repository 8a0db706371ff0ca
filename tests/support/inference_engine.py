"""The server's engine with a stand-in for its process, on a loop whose clock the test moves: no model, no waiting."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from inference_server.config import InferenceConfig
from inference_server.dispatcher import Dispatcher
from inference_server.engine_child import EngineChild
from inference_server.limits import LimitsOverride
from inference_server.messages import Cancel, Draw, Drawn, FromEngine, ModelInfo, RawImage, Ready, ToEngine
from inference_server.metrics import Metrics
from inference_server.owner import Owner
from inference_server.supervisor import Phase
from inference_server.tickets import Ticket
from inference_server.wire import read_request
from tests.support.scripted_engine import MODEL_INFO


class MovedClockLoop(asyncio.SelectorEventLoop):
    """Its clock stands still but when it is moved: no timer is due sooner because the machine is slow."""

    moved_s = 0.0

    def time(self) -> float:
        return self.moved_s


class StandInChild(EngineChild):
    """An engine process that does nothing but what the test says; `sent` are its orders."""

    def __init__(self) -> None:
        self.sent: list[ToEngine] = []
        self.killed = False

    @property
    def pid(self) -> int:
        return 1

    def send(self, message: ToEngine) -> None:
        self.sent.append(message)

    def listen(self, on_message: Callable[[FromEngine], None], on_end: Callable[[str], None]) -> None:
        self.say, self.die = on_message, on_end

    def kill(self) -> None:
        self.killed = True


class EngineBench:
    """An engine that is ready, and its stand-in process: the newest of `children`."""

    def __init__(
        self, model_info: ModelInfo = MODEL_INFO, owner: Owner | None = None, with_child: bool = True, **override: Any
    ) -> None:
        """`with_child`: the engine process was started with the server."""
        self.children: list[StandInChild] = []
        self.start_error: Exception | None = None  # instead of the next processes
        self.model_info, self.metrics = model_info, Metrics()
        limits = LimitsOverride(num_images_per_prompt={"max": 16}, **override)
        config = InferenceConfig(model_id="a-model", limits=limits, idle_engine_s=100)
        self.ended = False  # the engine has ended the server
        self.owner = owner or Owner()
        self.dispatcher = Dispatcher(config, self._new_child, self.metrics, self.owner, self._end)
        self.dispatcher.start(self._new_child() if with_child else None)

    def _end(self) -> None:
        self.ended = True

    def _new_child(self) -> StandInChild:
        if self.start_error is not None:
            raise self.start_error
        self.children.append(StandInChild())
        return self.children[-1]

    @property
    def child(self) -> StandInChild:
        return self.children[-1]

    def phase(self) -> Phase:
        """What the engine process is at."""
        return self.dispatcher.phase

    async def say(self, *messages: FromEngine) -> None:
        """The process says this, and the engine has heard it."""
        for message in messages:
            self.child.say(message)
        await settle()

    async def ready(self) -> None:
        await self.say(Ready(self.model_info))

    async def die(self) -> None:
        self.child.die("it was ended by SIGKILL")
        await settle()

    async def after(self, seconds: float) -> None:
        """So much later."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, MovedClockLoop)
        loop.moved_s += seconds
        await settle()

    def post(self, prompt: str, images: int = 1, **call: Any) -> Ticket:
        inputs = {"prompt": prompt, "num_images_per_prompt": images}
        return self.dispatcher.submit(read_request(json.dumps({"modelInputs": inputs, "callInputs": call}).encode()))

    @property
    def orders(self) -> list[str]:
        """The prompts that the present process was given, in order."""
        return [message.params.prompt for message in self.child.sent if isinstance(message, Draw)]

    @property
    def cancels(self) -> list[int]:
        return [message.number for message in self.child.sent if isinstance(message, Cancel)]

    def number(self, prompt: str) -> int:
        """Under which the present process knows a drawing."""
        orders = [message for message in self.child.sent if isinstance(message, Draw)]
        return next(order.number for order in orders if order.params.prompt == prompt)

    async def draw(self, prompt: str, nsfw: tuple[bool, ...] | None = None, **drawn: Any) -> None:
        """The process finishes this drawing; `drawn`: more fields of `Drawn`."""
        order = next(m for m in self.child.sent if isinstance(m, Draw) and m.params.prompt == prompt)
        images = tuple(RawImage(64, 64, bytes(64 * 64 * 3)) for _ in order.params.seeds)
        await self.say(Drawn(order.number, images, 0.1, nsfw, **drawn))


async def settle() -> None:
    """Lets the loop do what is due."""
    for _ in range(5):
        await asyncio.sleep(0)


def run(test: Coroutine[Any, Any, None]) -> None:
    """On a loop with a clock of its own."""
    with asyncio.Runner(loop_factory=MovedClockLoop) as runner:
        runner.run(test)


def code(ticket: Ticket) -> str | None:
    """How a ticket was refused; None while it waits, and for one that was drawn."""
    outcome = ticket.outcome
    return outcome.refusal.code if outcome is not None and outcome.refusal is not None else None


def metric(bench: EngineBench, name: str, **labels: str) -> float:
    return bench.metrics.registry.get_sample_value(name, labels) or 0.0
