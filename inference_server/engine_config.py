"""The settings of an engine: which engine, which model, and how it uses its device.

A new setting of an engine is a field here and is read by the engine; nothing between them names it.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from inference_server.json_model import Int, JsonModel
from inference_server.loras import Lora, read_offer

# Name -> module:class. Imported in the engine process only.
ENGINES = {
    "diffusers": "inference_server.engines.diffusers.engine:DiffusersEngine",
    "openvino": "inference_server.engines.openvino:OpenVinoEngine",
}
DEMO_MODEL_NAME = "demo_model"  # what the wire calls the model of a server that was given none
NO_CHECKER = "none"
USUAL_CHECKER = "stable-diffusion-v1-5/stable-diffusion-v1-5"  # has it as .safetensors
MAX_BATCH = 16
SIDE_MIN_PX, SIDE_MAX_PX, SIDE_MULTIPLE_PX = 64, 4096, 8


def _check_engine(value: str) -> str:
    if value not in ENGINES:
        raise ValueError(f"Engines: {', '.join(sorted(ENGINES))}")
    return value


def _sizes(value: Any) -> Any:
    """`"512x512,768x512"`, `"none"` or a list of such sizes -> pairs (width, height) in px."""
    if isinstance(value, tuple):  # read already
        return value
    if isinstance(value, str):
        value = [] if value.strip().lower() == "none" else value.split(",")
    if not isinstance(value, list):
        raise ValueError('must be a list of sizes such as ["512x512"], or "none"')  # noqa: TRY004 (pydantic's to turn)
    return tuple(dict.fromkeys(_size(one) for one in value))


def _size(text: Any) -> tuple[int, int]:
    found = re.fullmatch(r"\s*(\d{1,5})\s*[xX]\s*(\d{1,5})\s*", text) if isinstance(text, str) else None
    sides = (int(found[1]), int(found[2])) if found else (0, 0)
    if not all(SIDE_MIN_PX <= side <= SIDE_MAX_PX and side % SIDE_MULTIPLE_PX == 0 for side in sides):
        raise ValueError(
            f"each size is width x height in px, such as 512x512: from {SIDE_MIN_PX} to {SIDE_MAX_PX} "
            f"in multiples of {SIDE_MULTIPLE_PX}"
        )
    return sides


NonEmpty = Annotated[str, Field(min_length=1)]
EngineName = Annotated[str, AfterValidator(_check_engine)]
Device = Literal["cuda", "cpu"]
MemoryPlanName = Literal["auto", "full", "fp8", "nf4", "offload"]


class EngineConfig(JsonModel):
    """Frozen and picklable: the first message to each new engine process. It holds no secret."""

    engine: EngineName = "openvino"
    model_id: NonEmpty | None = None  # a folder, an id of the hub; None: the demo model
    model_file: NonEmpty | None = None  # weights in one file: a path, or owner/repo/file of the hub
    model_revision: NonEmpty | None = None
    model_precision: NonEmpty | None = None
    device: Device | None = None  # None: what the engine finds
    max_batch: Annotated[Int, Field(ge=1, le=MAX_BATCH)] = MAX_BATCH  # images side by side
    memory_plan: MemoryPlanName = "auto"  # how the model lies in the GPU's memory
    loras: Annotated[tuple[Lora, ...], BeforeValidator(read_offer)] = ()  # offered to requests by name
    # For models without one of their own: a folder, an id of the hub, or `none` (then no model's own either). Left out:
    # the usual one on a public page.
    safety_checker_model: NonEmpty | None = None
    public_page: bool | None = None  # visitors ask for the pictures; None: as the server finds
    compile_cache: NonEmpty | None = None  # folder for what was compiled and learnt; None: nothing is kept
    # (width, height) in px to compile for; (): none, None: the model's own
    compile_sizes: Annotated[tuple[tuple[int, int], ...], BeforeValidator(_sizes)] | None = None

    @property
    def checker(self) -> str | None:
        """The safety checker for models without one of their own; None: there is none."""
        if self.safety_checker_model == NO_CHECKER:
            return None
        return self.safety_checker_model or (USUAL_CHECKER if self.public_page else None)

    @property
    def checks(self) -> bool | None:
        """Whether pictures are checked, whatever a request says; None: as it says."""
        if self.safety_checker_model == NO_CHECKER:
            return False
        return True if self.checker else None
