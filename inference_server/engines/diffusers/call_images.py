"""The images of a request as a pipeline's own call takes them.

Images to go on from have the picture's size: some calls have no other way to learn it. An image to edit stays as it
is: those pipelines scale it to the area that they were trained with.
"""

from typing import Any

from PIL import Image

from inference_server.engines.diffusers.beginnings import to_pil
from inference_server.messages import GenerationParams
from inference_server.tasks import EDIT


def arguments(params: GenerationParams, scale: int) -> dict[str, Any]:
    """`image`, and `mask_image` where there is one. `scale`: how many times as large the pipeline makes its sides."""
    if params.image is None:
        return {}
    image, size = to_pil(params.image), (params.width_px // scale, params.height_px // scale)
    if params.task != EDIT:
        image = image.resize(size, Image.Resampling.LANCZOS)
    mask = params.mask_image
    if mask is None:
        return {"image": image, "mask_image": None}
    return {"image": image, "mask_image": to_pil(mask).resize(size, Image.Resampling.LANCZOS)}
