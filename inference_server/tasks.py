"""What a model can be asked for: a picture of a text, one that goes on from a picture, one that fills a part of it.

A request asks for a task by a pipeline's class name (`callInputs.PIPELINE`), or by the images that it brings along.
Source of the names: https://huggingface.co/docs/diffusers/api/pipelines/auto_pipeline
"""

from dataclasses import dataclass

# As in `limits.features`.
TEXT2IMAGE, IMG2IMG, INPAINT, EDIT, UPSCALE = "text2image", "img2img", "inpaint", "edit", "upscale"
# The images that each draws from: all of them must be there, and no others.
NEEDS: dict[str, tuple[str, ...]] = {
    TEXT2IMAGE: (),
    IMG2IMG: ("image",),
    INPAINT: ("image", "mask_image"),
    EDIT: ("image",),
    UPSCALE: ("image",),
}
# Names of callInputs.PIPELINE that every model understands which can do it.
AUTO = {
    TEXT2IMAGE: "AutoPipelineForText2Image",
    IMG2IMG: "AutoPipelineForImage2Image",
    INPAINT: "AutoPipelineForInpainting",
    EDIT: "AutoPipelineForImage2Image",
    UPSCALE: "Upscale",
}


@dataclass(frozen=True)
class Task:
    """One thing that a loaded model can do."""

    name: str
    pipeline: str  # diffusers' class that does it, as `$meta.PIPELINE` tells it
    also: tuple[str, ...] = ()  # further names that ask for it
    strength: float | None = None  # how much of a picture is drawn anew, 0 to 1, by default; None: it takes none
    spreads_steps: bool = False  # all steps are taken whatever the strength (LCM); others skip the first ones
    scale: int = 1  # how many times the sides of the image the picture has by default
    by_name: bool = False  # only where its name is given, however fitting the images are

    @property
    def needs(self) -> tuple[str, ...]:
        return NEEDS[self.name]

    @property
    def names(self) -> tuple[str, ...]:
        """What callInputs.PIPELINE may say for it."""
        return (AUTO[self.name], self.pipeline, *self.also)


# What a picture is enlarged with where the model is no upscaler.
LANCZOS = Task(UPSCALE, "Lanczos", scale=2, by_name=True)
