"""Encodes raw pixels as PNG, WebP or JPEG files in base64. Runs in the server, beside the engine's steps."""

import base64
from io import BytesIO
from pathlib import Path

from PIL import Image, PngImagePlugin

from inference_server.fast_png import encode_png
from inference_server.messages import RawImage
from inference_server.resolve import Resolved

PREVIEW_SIDE_PX = 128
JPEG_QUALITY = 92
WEBP_QUALITY = 90
# How widespread programs that read "parameters" call the schedulers, with a model's usual settings of each.
# Source: https://huggingface.co/docs/diffusers/api/schedulers/overview; "DPM++ SDE" is DPMSolverSDE's own algorithm.
SAMPLER_NAMES = {
    "DDIMScheduler": "DDIM",
    "DDPMScheduler": "DDPM",
    "DEISMultistepScheduler": "DEIS",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "DPMSolverSDEScheduler": "DPM++ SDE",
    "DPMSolverSinglestepScheduler": "DPM++ 2S",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "EulerDiscreteScheduler": "Euler",
    "HeunDiscreteScheduler": "Heun",
    "KDPM2AncestralDiscreteScheduler": "DPM2 a",
    "KDPM2DiscreteScheduler": "DPM2",
    "LCMScheduler": "LCM",
    "LMSDiscreteScheduler": "LMS",
    "PNDMScheduler": "PLMS",
    "TCDScheduler": "TCD",
    "UniPCMultistepScheduler": "UniPC",
}


_OF_THE_WHOLE_REQUEST = ("seeds", "num_images_per_prompt", "safety_checker")


def encode(raw: RawImage, resolved: Resolved, image: int, png_compress_level: int | None) -> str:
    """One picture as base64 of the format that was asked for; `image` counts from 0.

    `png_compress_level`: Pillow's, 0 to 9, when small matters more than fast; None: fast.
    """
    return base64.b64encode(_file(raw, resolved, image, png_compress_level)).decode("ascii")


def _file(raw: RawImage, resolved: Resolved, image: int, png_compress_level: int | None) -> bytes:
    if resolved.image_format == "PNG" and png_compress_level is None:
        return encode_png(raw, png_info(resolved, image))
    picture, file = _image(raw), BytesIO()
    match resolved.image_format:
        case "PNG":
            picture.save(file, "PNG", compress_level=png_compress_level, pnginfo=png_info(resolved, image))
        case "WEBP_LOSSLESS":
            picture.save(file, "WEBP", lossless=True, quality=20, method=1)  # quality: the effort, when lossless
        case "WEBP":
            picture.save(file, "WEBP", quality=WEBP_QUALITY, method=2)
        case _:
            picture.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def preview(raw: RawImage) -> str:
    """A small JPEG of a picture in the making, as base64; its longer side is `PREVIEW_SIDE_PX`."""
    scale = PREVIEW_SIDE_PX / max(raw.width_px, raw.height_px)
    size = (max(1, round(raw.width_px * scale)), max(1, round(raw.height_px * scale)))
    file = BytesIO()
    _image(raw).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=70)
    return base64.b64encode(file.getvalue()).decode("ascii")


def png_info(resolved: Resolved, image: int) -> PngImagePlugin.PngInfo:
    """Text metadata: every parameter by its own key, and all of them as "parameters" in the widespread layout."""
    used = {name.lower(): value for name, value in resolved.params.by_wire_names().items()}
    used["seed"] = resolved.params.seeds[image]
    used["model"] = Path(resolved.model_info.name).name  # of a folder its name alone
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", _parameters(resolved, image))
    for key, value in used.items():
        if key not in _OF_THE_WHOLE_REQUEST:
            info.add_text(key, str(value))
    return info


def _parameters(resolved: Resolved, image: int) -> str:
    params = resolved.params
    lines = [params.prompt]
    if params.negative_prompt:
        lines.append(f"Negative prompt: {params.negative_prompt}")
    lines.append(
        f"Steps: {params.num_inference_steps}, "
        f"Sampler: {SAMPLER_NAMES.get(params.scheduler, params.scheduler)}, "
        f"CFG scale: {params.guidance_scale:g}, Seed: {params.seeds[image]}, "
        f"Size: {params.width_px}x{params.height_px}, Model: {Path(resolved.model_info.name).name}"
        + (f", Denoising strength: {params.strength:g}" if params.strength is not None else "")
    )
    return "\n".join(lines)


def _image(raw: RawImage) -> Image.Image:
    return Image.frombytes("RGB", (raw.width_px, raw.height_px), raw.rgb)
