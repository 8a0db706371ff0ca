"""Finds the task that a request asks for among those of the model; refuses in words that name what there is."""

from collections.abc import Collection, Sequence

from inference_server.errors import Refusal, invalid_inputs
from inference_server.tasks import TEXT2IMAGE, Task

_WANTS = {
    "text2image": "draws from a text alone",
    "img2img": "goes on from an image",
    "inpaint": "fills the white part of mask_image in image",
    "edit": "changes an image as the prompt says",
    "upscale": "enlarges an image",
}


def choose(tasks: Sequence[Task], pipeline: str | None, images: Collection[str]) -> Task:
    """The task of this name (None: any) that draws from exactly these `images`.

    Raises: Refusal (NO_SUCH_PIPELINE, INVALID_INPUTS).
    """
    asked = [task for task in tasks if not task.by_name if pipeline is None]
    if pipeline is not None:
        asked = [task for task in tasks if pipeline in task.names]
    if not asked:
        names = ", ".join(dict.fromkeys(name for task in tasks for name in task.names))
        raise Refusal(
            400, "NO_SUCH_PIPELINE", f"There is no pipeline {(pipeline or '')[:100]!a} here. Pipelines: {names}."
        )
    fitting = [task for task in asked if set(task.needs) == set(images)]
    if fitting:
        return fitting[0]
    raise invalid_inputs(_misfit(asked, tasks, set(images)))


def _misfit(asked: Sequence[Task], tasks: Sequence[Task], images: set[str]) -> str:
    missing = [name for name in asked[0].needs if name not in images]
    if missing and images <= set(asked[0].needs):
        told = f"modelInputs.{missing[0]}: is missing; {asked[0].pipeline} {_WANTS[asked[0].name]}."
        return told if len(asked) == len(tasks) else f"{told} {_can(tasks)}"
    order = ("image", "mask_image", "control_image")
    name = next(one for one in order if one in (images - set(asked[0].needs) or images))
    if all(task.name == TEXT2IMAGE for task in tasks if not task.by_name):
        return f"modelInputs.{name}: this server draws from text alone."
    if name == "mask_image" and "image" not in images:
        return f"modelInputs.image: is missing; there is only a mask. {_can(tasks)}"
    return f"modelInputs.{name}: cannot be drawn from with {asked[0].pipeline}. {_can(tasks)}"


def _can(tasks: Sequence[Task]) -> str:
    """What this model can do, each with a name that asks for it."""
    return "PIPELINE can be " + "; ".join(f"{task.pipeline} ({_WANTS[task.name]})" for task in tasks) + "."
