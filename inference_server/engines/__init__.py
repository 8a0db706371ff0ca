"""What an engine is: it loads a model once and draws with it, and knows nothing of HTTP or of the queue.

An engine draws one request at a time (`one_at_a_time`), or several that share steps, as it likes.
"""

import re
from collections.abc import Callable
from importlib import import_module
from typing import Protocol

from inference_server.engine_config import ENGINES, EngineConfig
from inference_server.messages import Draw, FromEngine, ModelInfo

# A library's own source file, where it was built: "at /pytorch/torch/csrc/x.cpp, line 145", "../c10/cuda/y.cpp:84".
_BUILD_PATH = re.compile(r"(?:\s+(?:at|from|in))?\s+\S*/\S+\.(?:c|cc|cpp|cxx|cu|cuh|h|hpp)\b(?:, line |:)?\d*")


class ModelLoadError(Exception):
    """The model cannot be loaded; the text is for the maintainer and holds no secret.

    `code`: the wire's. `permanent`: trying again would end in the same way.
    """

    code = "MODEL_NOT_LOADED"
    permanent = False


class WorkChannel(Protocol):
    """Gives an engine its requests and takes what it reports of them. Any thread may use it."""

    def take(self, timeout_s: float | None = None) -> Draw | None:
        """The next drawing, the oldest first; waits for one, for ever without a timeout, not at all with 0.

        None after the timeout; without one: no more will come.
        """

    def is_cancelled(self, number: int) -> bool:
        """Whether the drawing should end at its next step."""

    def tell(self, message: FromEngine) -> None:
        """Each drawing that was taken ends with exactly one of Drawn, DrawFailed, Cancelled."""


class LoadedEngine(Protocol):
    """A model in memory, ready to draw."""

    model_info: ModelInfo

    def warm_up(self) -> None:
        """Draws something small, so that the first visitor does not pay for what is done once."""

    def work(self, channel: WorkChannel) -> None:
        """Draws what comes to the channel, until the process is ended; a seed gives the same picture in any company.

        Raises: whatever leaves the process unfit to go on; it is then started again.
        """


def load(config: EngineConfig, report: Callable[[str], None]) -> LoadedEngine:
    """Loads the model with the named engine; `report` is told each stage in words that a visitor may read.

    Raises: ModelLoadError, or whatever the engine's library raises.
    """
    module_name, _, class_name = ENGINES[config.engine].partition(":")
    report("importing the engine")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as exc:
        raise ModelLoadError(
            f"The engine {config.engine!r} needs the package {exc.name}, which is not installed here: "
            "pip install -r inference_server/requirements.txt"
        ) from exc
    loaded: LoadedEngine = getattr(module, class_name)(config, report)
    return loaded


def short_reason(exc: BaseException) -> str:
    """An exception in one line without the library's build paths; at most 500 characters."""
    text = str(exc).partition("Invoked with")[0]  # what follows holds the prompt
    lines = [line.strip() for line in text.splitlines() if line.strip() and "/src/cpp/" not in line]
    lines = [_BUILD_PATH.sub("", f" {line}").strip() for line in lines]
    return (" ".join(lines) or type(exc).__name__)[:500]
