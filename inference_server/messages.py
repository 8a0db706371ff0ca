"""What the server and its engine process say to each other over their pipe: frozen, small, picklable.

The very first message to a new engine process is its `EngineConfig`.
"""

from dataclasses import dataclass

from inference_server.engine_config import EngineConfig
from inference_server.params import GenerationParams as GenerationParams  # a part of Draw
from inference_server.raw_image import RawImage as RawImage
from inference_server.tasks import TEXT2IMAGE, Task

DOWNLOADING = "Downloading the model"  # begins the stages of a download, which takes as long as it brings bytes
PROMPT_WEIGHTING, LONG_PROMPTS, LORAS = "prompt_weighting", "long_prompts", "loras"  # names of features
# The wire's codes for a model that is not there.
MODEL_NOT_LOADED, GPU_BUSY, NO_GPU = "MODEL_NOT_LOADED", "GPU_BUSY", "NO_GPU"


@dataclass(frozen=True)
class Draw:
    """Draw this; every answer carries the same number."""

    number: int
    params: GenerationParams


@dataclass(frozen=True)
class Cancel:
    """Stop drawing `number` at the next step; unknown numbers are ignored (it may just have been finished)."""

    number: int


@dataclass(frozen=True)
class ModelInfo:
    """What a loaded model can do, and what it does best."""

    name: str
    pipeline: str  # the model's own pipeline class
    width_px: int  # defaults
    height_px: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    schedulers: tuple[str, ...]
    max_side_px: int
    side_multiple_px: int
    gpu: bool = False
    images_at_once: int = 1  # images side by side; a drawing with more is taken alone
    images_ahead: int = 0  # how many more it takes early and prepares
    loras: tuple[tuple[str, float], ...] = ()  # names and default strengths of those that a request can have
    features: tuple[str, ...] = ("text2image", "negative_prompt", "guidance")  # what a request can make use of
    memory_plan: str = ""  # how it lies in the device's memory, and why; empty: all of it is there
    notices: tuple[str, ...] = ()  # for the maintainer: licence, precision; a sentence each
    image_tasks: tuple[Task, ...] = ()  # what it draws from images

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All that it can be asked for."""
        text = (Task(TEXT2IMAGE, self.pipeline),) if TEXT2IMAGE in self.features else ()
        return (*text, *self.image_tasks)


@dataclass(frozen=True)
class Stage:
    """What the engine process is doing before it is ready, in words a visitor may read."""

    text: str


@dataclass(frozen=True)
class Hardware:
    """The machine's GPU, for its owner. `cuda`: the newest that the driver can do; the sizes are its memory's."""

    gpu: str | None
    driver: str | None
    cuda: str | None
    memory_bytes: int | None
    free_bytes: int | None


@dataclass(frozen=True)
class Ready:
    """The model is loaded and warmed up."""

    model_info: ModelInfo


@dataclass(frozen=True)
class LoadFailed:
    """The model cannot be loaded; the process ends after this."""

    reason: str
    code: str = MODEL_NOT_LOADED  # GPU_BUSY when something else holds the device's memory, NO_GPU when it is gone
    permanent: bool = False  # trying again would end in the same way


@dataclass(frozen=True)
class Step:
    """`step` of `num_steps` is done, counted over all images of the drawing."""

    number: int
    step: int
    num_steps: int
    preview: RawImage | None


@dataclass(frozen=True)
class Drawn:
    """The pictures, in the order of the seeds."""

    number: int
    images: tuple[RawImage, ...]
    inference_s: float
    nsfw: tuple[bool, ...] | None = None  # one per image, those found are black; None: there was no check
    mem_usage: float = 0.0  # of the device: allocated now over the most ever allocated; 0 on a CPU
    unused_words: tuple[str, ...] = ()  # of the prompt: beyond the text encoder's window
    unused_negative_words: tuple[str, ...] = ()  # of the negative prompt, likewise


@dataclass(frozen=True)
class DrawFailed:
    """The model said no; the engine goes on."""

    number: int
    reason: str


@dataclass(frozen=True)
class Cancelled:
    """Stopped as asked."""

    number: int


@dataclass(frozen=True)
class BatchStats:
    """One step of the model for `images` images side by side took `step_s`; for the metrics alone."""

    step_s: float
    images: int
    device_bytes: int | None  # of the device's memory that this process holds; None without a device of its own


@dataclass(frozen=True)
class Capacity:
    """From now on the engine draws at most `images` images side by side (the memory does not suffice for more)."""

    images: int


FromEngine = Stage | Hardware | Ready | LoadFailed | Step | Drawn | DrawFailed | Cancelled | BatchStats | Capacity
ToEngine = EngineConfig | Draw | Cancel
