"""The engines by name. An engine loads a model once and draws with it; it knows nothing of HTTP or of queues."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Protocol

from inference_server.messages import Drawing, ModelFacts, RawImage

# step (1 to n over all images), n, a preview or None -> True to stop
OnStep = Callable[[int, int, RawImage | None], bool]

# Imported in the engine process only, when chosen: name -> module:class.
ENGINES = {"openvino": "inference_server.engines.openvino:OpenVinoEngine"}


DEMO_MODEL_NAME = "demo_model"  # what the wire calls the model of a server that was given none


class DrawingStoppedError(Exception):
    """`on_step` asked to stop."""


class ModelLoadError(Exception):
    """The model cannot be loaded; the text is for the maintainer and holds no secret."""


class LoadedEngine(Protocol):
    """A model in memory, ready to draw one drawing at a time."""

    facts: ModelFacts

    def warm_up(self) -> None:
        """Draws something small, so that the first visitor does not pay for what is done once."""

    def draw(self, drawing: Drawing, on_step: OnStep) -> tuple[RawImage, ...]:
        """The pictures, one per seed; a seed gives the same picture alone and among others.

        Raises: DrawingStoppedError.
        """


def create(engine: str, folder: Path, name: str) -> LoadedEngine:
    """Loads the model in `folder` with the named engine.

    Raises: ModelLoadError, or whatever the engine's library raises.
    """
    module_name, _, class_name = ENGINES[engine].partition(":")
    loaded: LoadedEngine = getattr(import_module(module_name), class_name)(folder, name)
    return loaded
